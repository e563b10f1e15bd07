"""What /diagnostics says: one status with a level, a reason and the figures behind it."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from segmentation_node.accounting import Counts
from segmentation_node.timing import PERCENTILES, STAGES

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE

LATENCIES = STAGES + ("processing", "transport", "end_to_end")

LARGE_IMAGE_HINT = (
    "for large images export config/fastdds_large_images.xml for the camera driver too"
)


@dataclass(frozen=True)
class Limits:
    """Thresholds from the parameters; 0 turns latency and rate off."""

    max_latency_ms: float
    min_rate_hz: float
    input_timeout_s: float


@dataclass(frozen=True)
class Observation:
    """What the node knows about itself at one moment.

    ``recent_*`` count since the last report; ``input_age_s`` is the time since the last frame,
    or since the input began, in the node's clock; rates are NaN where there are none yet.
    """

    state: str
    error: str = ""
    demanded: bool = False
    topic: str = ""
    publishers: int = 0
    incompatible: int = 0
    clock_waits: bool = False
    counts: Counts = Counts()
    input_age_s: float = 0.0
    recent_failed: int = 0
    recent_dropped: int = 0
    recent_lost: int = 0
    last_failure: str = ""
    stamp_problem: str = ""
    output_rate_hz: float = float("nan")
    p95_ms: float = float("nan")


def judge(seen: Observation, limits: Limits) -> Tuple[bytes, str]:
    """Level and reason: the first thing that stands in the way, else what is worth knowing."""
    if seen.error:
        return ERROR, seen.error
    if seen.state != "active":
        return OK, seen.state
    if not seen.demanded:
        return OK, "idle, no subscriber"
    return _judge_input(seen, limits) or _judge_work(seen, limits) or (OK, "running")


def _judge_input(seen: Observation, limits: Limits) -> Optional[Tuple[bytes, str]]:
    late = seen.input_age_s > limits.input_timeout_s and seen.counts.queued == 0
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


def _judge_work(seen: Observation, limits: Limits) -> Optional[Tuple[bytes, str]]:
    if seen.recent_failed:
        return WARN, "%d frames failed, last: %s" % (seen.recent_failed, seen.last_failure)
    if limits.max_latency_ms > 0 and seen.p95_ms > limits.max_latency_ms:
        return WARN, "slow: p95 is %.1f ms, diagnostics.max_latency_ms is %.1f ms" % (
            seen.p95_ms,
            limits.max_latency_ms,
        )
    if limits.min_rate_hz > 0 and seen.output_rate_hz < limits.min_rate_hz:
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
        return WARN, "dropping: %d frames were replaced by newer ones" % seen.recent_dropped
    if seen.stamp_problem:
        return WARN, "no transport latency: %s" % seen.stamp_problem
    return None


def figures(
    counts: Counts, rates_hz: Dict[str, float], percentiles: Dict[str, Dict[int, float]]
) -> List[Tuple[str, str]]:
    """Keys and values behind the reason: n/a, not 0, where there is nothing yet."""
    pairs = [("%s_rate_hz" % name, _number(rate)) for name, rate in rates_hz.items()]
    for name in ("received", "processed", "dropped", "failed", "queued", "lost"):
        pairs.append((name, str(getattr(counts, name))))
    for name in LATENCIES:
        for rank in PERCENTILES:
            value_ms = percentiles.get(name, {}).get(rank, float("nan"))
            pairs.append(("%s_ms_p%d" % (name, rank), _number(value_ms)))
    return pairs


def diagnostic_array(
    stamp: Any, name: str, hardware_id: str, verdict: Tuple[bytes, str], pairs: List[Any]
) -> DiagnosticArray:
    """One message with one status."""
    status = DiagnosticStatus(level=verdict[0], name=name, message=verdict[1])
    status.hardware_id = hardware_id
    status.values = [KeyValue(key=key, value=value) for key, value in pairs]
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def _number(value: float) -> str:
    return "n/a" if value != value else "%.3f" % value
