"""What /diagnostics says: one status with a level, a reason and the figures behind it."""

import re
import threading
import time
from dataclasses import dataclass, replace
from typing import Callable, Dict, List, Optional, Tuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.duration import Duration
from rclpy.node import Node

from segmentation_node.accounting import Counts
from segmentation_node.ros.camera import Camera
from segmentation_node.ros.parameters import NODE_STATUS, NodeParameters
from segmentation_node.ros.session import Session
from segmentation_node.ros.worker import BACKLOG_BYTES
from segmentation_node.timing import PERCENTILES, STAGES

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE

RUNNING = "running"
PAUSED = "paused: simulated time stands still, and no image comes"
LATENCIES = STAGES + ("processing", "transport", "end_to_end")

# Nobody means to be this far behind; under ``latest`` no image waits for more than one other.
BEHIND_S = 2.0
LARGE_IMAGE_HINT = (
    "for large images export config/fastdds_large_images.xml for the camera driver too"
)

DROPPED = {
    "latest": "were replaced by newer ones",
    "every": "came while %d MiB of images waited; play slower, or choose frame_policy latest"
    % (BACKLOG_BYTES >> 20),
}


@dataclass(frozen=True)
class Limits:
    """Thresholds from the parameters; 0 turns latency, deadline and rate off."""

    max_latency_ms: float
    deadline_ms: float
    min_rate_hz: float
    input_timeout_s: float


@dataclass(frozen=True)
class Observation:
    """What the node knows about itself at one moment.

    ``recent_*`` count since the last report; ``input_age_s`` is the time since the last frame,
    or since the input began; ``misfit`` is the message type of a topic that
    carries no images of this ``transport``; ``paused``: simulated time has stood still since the
    last report, and no image came; ``backlog_s`` is how long the oldest image under
    frame policy every has waited; rates are NaN where there are none yet.
    """

    state: str
    error: str = ""
    namesakes: int = 0
    demanded: bool = False
    topic: str = ""
    publishers: int = 0
    incompatible: int = 0
    misfit: str = ""
    transport: str = "raw"
    clock_waits: bool = False
    paused: bool = False
    counts: Counts = Counts()
    input_age_s: float = 0.0
    frame_policy: str = "latest"
    backlog_s: float = 0.0
    recent_failed: int = 0
    recent_dropped: int = 0
    recent_lost: int = 0
    last_failure: str = ""
    camera_problem: str = ""
    model_problem: str = ""
    stamp_problem: str = ""
    output_rate_hz: float = float("nan")
    p95_ms: float = float("nan")


def judge(seen: Observation, limits: Limits) -> Tuple[bytes, str]:
    """Level and reason: the first thing that stands in the way, else what is worth knowing."""
    if seen.error:
        return ERROR, seen.error
    if seen.namesakes:
        return WARN, (
            "%d other nodes have this node's name, and each answers every image and request; give "
            "them names of their own (__node, __ns)" % seen.namesakes
        )
    if seen.state != "active":
        return OK, seen.state
    if not seen.demanded:
        return OK, "idle, no subscriber"
    return (
        _judge_input(seen, limits)
        or _judge_work(seen, limits)
        or _judge_unheard(seen)
        or (OK, PAUSED if seen.paused and seen.counts.queued == 0 else RUNNING)
    )


def _judge_input(seen: Observation, limits: Limits) -> Optional[Tuple[bytes, str]]:
    late = seen.input_age_s > limits.input_timeout_s and seen.counts.queued == 0
    if seen.misfit:
        return ERROR, (
            "%s carries %s, which input.transport %s does not read; raw reads the Image on the "
            "topic that image is remapped to, compressed the CompressedImage on its /compressed"
            % (seen.topic, seen.misfit, seen.transport)
        )
    if seen.publishers == 0:
        return WARN, "no publisher on %s" % seen.topic
    if seen.incompatible == seen.publishers:
        return ERROR, (
            "QoS incompatible: the publishers of %s offer best effort, input.reliability asks for "
            "reliable; set it to auto or best_effort" % seen.topic
        )
    if seen.clock_waits:
        return WARN, "use_sim_time is set but nothing is on /clock"
    if seen.counts.received == 0:
        level = WARN if late else OK
        return level, "waiting for input on %s; %s" % (seen.topic, LARGE_IMAGE_HINT)
    if late:
        return STALE, "stale: no image on %s for %.1f s" % (seen.topic, seen.input_age_s)
    return None


def _judge_unheard(seen: Observation) -> Optional[Tuple[bytes, str]]:
    if not seen.incompatible:
        return None
    return WARN, (
        "QoS incompatible: %d of the %d publishers of %s offer best effort and are not heard, "
        "input.reliability asks for reliable; set it to auto or best_effort"
        % (seen.incompatible, seen.publishers, seen.topic)
    )


def _judge_work(seen: Observation, limits: Limits) -> Optional[Tuple[bytes, str]]:
    if seen.recent_failed:
        return WARN, "%d frames failed, last: %s" % (seen.recent_failed, seen.last_failure)
    if seen.camera_problem:
        return WARN, seen.camera_problem
    if seen.model_problem:
        return WARN, seen.model_problem
    if limits.deadline_ms > 0 and seen.p95_ms > limits.deadline_ms:
        return WARN, "deadline missed: p95 is %.1f ms, deadline_ms is %g" % (
            seen.p95_ms,
            limits.deadline_ms,
        )
    if limits.max_latency_ms > 0 and seen.p95_ms > limits.max_latency_ms:
        return WARN, "slow: p95 is %.1f ms, diagnostics.max_latency_ms is %.1f ms" % (
            seen.p95_ms,
            limits.max_latency_ms,
        )
    if seen.output_rate_hz < limits.min_rate_hz:
        return WARN, "slow: %.2f Hz come out, diagnostics.min_rate_hz is %.2f Hz" % (
            seen.output_rate_hz,
            limits.min_rate_hz,
        )
    if seen.recent_lost:
        return WARN, "dropping: the middleware lost %d frames; %s" % (
            seen.recent_lost,
            LARGE_IMAGE_HINT,
        )
    if seen.recent_dropped:
        return WARN, "dropping: %d frames %s" % (seen.recent_dropped, DROPPED[seen.frame_policy])
    if seen.frame_policy == "every" and seen.backlog_s > BEHIND_S:
        return WARN, "behind: %d frames wait, the oldest for %.1f s; more than %d MiB never do" % (
            seen.counts.queued,
            seen.backlog_s,
            BACKLOG_BYTES >> 20,
        )
    if seen.stamp_problem and not seen.paused:
        return WARN, "no transport latency: %s" % seen.stamp_problem
    return None


def figures(
    counts: Counts,
    missed: Optional[int],
    rates_hz: Dict[str, float],
    percentiles: Dict[str, Dict[int, float]],
) -> List[Tuple[str, str]]:
    """Keys and values behind the reason: n/a, not 0, where there is nothing yet."""
    pairs = [("%s_rate_hz" % name, _number(rate)) for name, rate in rates_hz.items()]
    for name in ("received", "processed", "dropped", "failed", "queued", "lost"):
        pairs.append((name, str(getattr(counts, name))))
    pairs.append(("missed", "n/a" if missed is None else str(missed)))
    for name in LATENCIES:
        for rank in PERCENTILES:
            value_ms = percentiles.get(name, {}).get(rank, float("nan"))
            pairs.append(("%s_ms_p%d" % (name, rank), _number(value_ms)))
    return pairs


Verdict = Tuple[bytes, str]


def summary(verdicts: Dict[str, Verdict]) -> Verdict:
    """Of the cameras' levels and reasons by name: the worst level and what is wrong, worst first.

    Where nothing is, how many are in use.
    """
    wrong = [name for name in verdicts if verdicts[name][0] != OK]
    if wrong:
        # STALE is the highest number, but an error is worse.
        wrong.sort(key=lambda name: (OK, WARN, STALE, ERROR).index(verdicts[name][0]), reverse=True)
        reasons = ("%s: %s" % (name, verdicts[name][1]) for name in wrong)
        return verdicts[wrong[0]][0], "; ".join(reasons)
    running = sum(message == RUNNING for _, message in verdicts.values())
    return OK, "%d of %d cameras running" % (running, len(verdicts))


def diagnostic_status(
    name: str, hardware_id: str, verdict: Verdict, pairs: List[Tuple[str, str]]
) -> DiagnosticStatus:
    """One status of a message."""
    status = DiagnosticStatus(level=verdict[0], name=name, message=verdict[1])
    status.hardware_id = hardware_id
    status.values = [KeyValue(key=key, value=value) for key, value in pairs]
    return status


class Reporter:
    """Judges a node and its session, and publishes the verdict on /diagnostics."""

    def __init__(self, node: Node, parameters: NodeParameters) -> None:
        self._node = node
        self._parameters = parameters
        self._name = node.get_fully_qualified_name().lstrip("/")
        # Transitions and the timer report from different threads.
        self._lock = threading.Lock()
        self._reported_ns = -1
        self._told: Dict[str, str] = {}  # by camera: what keeps its images away, without figures
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def report(self, state: str, error: str, session: Optional[Session]) -> None:
        """Publish what a node in this lifecycle state knows about itself."""
        now = self._node.get_clock().now()
        with self._lock:
            if session is not None and session.settings.cameras:
                statuses = self._statuses_of_cameras(state, error, session, now.nanoseconds)
            else:
                camera = session.cameras[0] if session is not None else None
                seen = self._observe(state, error, camera, now.nanoseconds)
                verdict = self._judge_node(seen)
                pairs = _identity(state, session) + _figures_of(camera)
                statuses = [self._status(NODE_STATUS, session, verdict, pairs)]
            self._reported_ns = now.nanoseconds
        message = DiagnosticArray(status=statuses)
        message.header.stamp = now.to_msg()
        self._publisher.publish(message)

    def _statuses_of_cameras(
        self, state: str, error: str, session: Session, now_ns: int
    ) -> List[DiagnosticStatus]:
        """The node's own status, then each camera's."""
        statuses = []
        verdicts = {}
        for camera in session.cameras:
            verdict = judge(self._observe(state, "", camera, now_ns), self._limits())
            pairs = [("state", state)] + _figures_of(camera)
            statuses.append(self._status(camera.name, session, verdict, pairs))
            verdicts[camera.name] = verdict
        own = self._judge_node(Observation(state=state, error=error))
        if own[0] == OK and state == "active":
            own = summary(verdicts)
        return [self._status(NODE_STATUS, session, own, _identity(state, session)), *statuses]

    def _observe(
        self, state: str, error: str, camera: Optional[Camera], now_ns: int
    ) -> Observation:
        seen = _observation(state, error, camera, now_ns)
        came = camera is not None and camera.accounts.rates.recent("received") > 0
        if camera is not None and seen.state == "active" and seen.demanded:
            self._tell(camera.name, seen)
        return replace(seen, paused=now_ns == self._reported_ns and not came)

    def _tell(self, camera: str, seen: Observation) -> None:
        """Log what keeps images away, once until some come: a terminal shows no diagnostics."""
        limits = self._limits()
        level, reason = _judge_input(seen, limits) or (OK, "")
        has_had_time = seen.input_age_s > limits.input_timeout_s or seen.clock_waits
        kind = re.sub(r"\d", "", reason) if level != OK and has_had_time else ""
        if kind and kind != self._told.get(camera):
            self._node.get_logger().warning(reason)
        self._told[camera] = kind

    def _judge_node(self, seen: Observation) -> Verdict:
        return judge(replace(seen, namesakes=self._namesakes()), self._limits())

    def _status(
        self, name: str, session: Optional[Session], verdict: Verdict, pairs: List[Tuple[str, str]]
    ) -> DiagnosticStatus:
        device = session.model.backend.device if session is not None else ""
        return diagnostic_status("%s: %s" % (self._name, name), device, verdict, pairs)

    def wait_for_subscriber(self, timeout_s: float, abandoned: Callable[[], bool]) -> None:
        """Give those who watch the time to be found, unless it is ``abandoned``."""
        deadline_s = time.monotonic() + timeout_s
        while self._publisher.get_subscription_count() == 0 and time.monotonic() < deadline_s:
            if abandoned():
                return
            time.sleep(0.02)

    def wait_for_delivery(self, timeout_s: float) -> None:
        """Wait until every subscriber has what was published."""
        self._publisher.wait_for_all_acked(Duration(seconds=timeout_s))

    def _namesakes(self) -> int:
        own = (self._node.get_name(), self._node.get_namespace())
        return max(0, self._node.get_node_names_and_namespaces().count(own) - 1)

    def _limits(self) -> Limits:
        return Limits(
            max_latency_ms=self._parameters["diagnostics.max_latency_ms"],
            deadline_ms=self._parameters["deadline_ms"],
            min_rate_hz=self._parameters["diagnostics.min_rate_hz"],
            input_timeout_s=self._parameters["diagnostics.input_timeout_s"],
        )


def _identity(state: str, session: Optional[Session]) -> List[Tuple[str, str]]:
    return [("state", state)] + (session.identity() if session is not None else [])


def _observation(state: str, error: str, camera: Optional[Camera], now_ns: int) -> Observation:
    if camera is None:
        return Observation(state=state, error=error)
    accounts = camera.accounts
    if camera.demanded:
        accounts.look()
    percentiles = accounts.latencies.percentiles()
    return Observation(
        state=state,
        error=error,
        demanded=camera.demanded,
        topic=camera.input.topic,
        publishers=camera.input.publisher_count(),
        incompatible=camera.input.incompatible_publishers(),
        misfit=camera.input.misfit(),
        transport=camera.transport,
        clock_waits=now_ns == 0,
        counts=accounts.counters.snapshot(),
        input_age_s=camera.input_age_s,
        frame_policy=camera.frame_policy,
        backlog_s=camera.backlog_s,
        recent_failed=accounts.rates.recent("failed"),
        recent_dropped=accounts.rates.recent("dropped"),
        recent_lost=accounts.rates.recent("lost"),
        last_failure=camera.processor.last_failure,
        camera_problem=accounts.camera.problem,
        model_problem=accounts.model.problem,
        stamp_problem=camera.processor.stamp_problem,
        output_rate_hz=accounts.rates.rate_hz("processed"),
        p95_ms=percentiles.get("processing", {}).get(95, float("nan")),
    )


def _figures_of(camera: Optional[Camera]) -> List[Tuple[str, str]]:
    nothing = {"input": float("nan"), "output": float("nan")}
    if camera is None:
        return figures(Counts(), None, nothing, {})
    accounts, missed = camera.accounts, camera.missed
    geometry = [(name, str(value)) for name, value in camera.geometry.facts().items()]
    sure = [("mean_confidence", _number(accounts.model.mean))]
    if not camera.demanded:
        return geometry + figures(accounts.counters.snapshot(), missed, nothing, {})
    rates_hz = {
        "input": accounts.rates.rate_hz("received"),
        "output": accounts.rates.rate_hz("processed"),
    }
    percentiles = accounts.latencies.percentiles()
    return geometry + sure + figures(accounts.counters.snapshot(), missed, rates_hz, percentiles)


def _number(value: float) -> str:
    return "n/a" if value != value else "%.3f" % value
