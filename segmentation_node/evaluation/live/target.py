"""The node that is scored: started here, or one that runs; and what it says of itself."""

import ctypes
import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Deque, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import NodeNameNonExistentError
from rclpy.signals import SignalHandlerOptions

from segmentation_msgs.msg import LabelInfo
from segmentation_node.backends import BACKENDS
from segmentation_node.errors import ReplayError
from segmentation_node.evaluation.run.provenance import environment_facts
from segmentation_node.geometry import WHOLE_IMAGE, Geometry
from segmentation_node.interrupts import uninterrupted
from segmentation_node.labels import LabelSet, told_label_set
from segmentation_node.model_card import ModelCard, models_folder, open_model
from segmentation_node.ros.outputs import latched_qos

DEFAULT_NAME = "/segmentation_node"
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
LONGEST_TURN_S = 0.1
STATUSES_KEPT = 60
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class TargetOptions:
    """The node to score: ``node`` names one that runs; without it one is started with the rest.

    ``geometry`` is that of either; ``detected`` are the classes that one gives boxes of that is
    started.
    """

    node: str = ""
    model: str = ""
    policy: str = "every"
    backend: str = "auto"
    device: str = "auto"
    precision: str = "fp32"
    num_threads: int = 0
    sim_time: bool = False
    geometry: Geometry = WHOLE_IMAGE
    detected: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The node's full name."""
        return "/" + (self.node or DEFAULT_NAME).strip("/")

    def card(self) -> ModelCard:
        """The card of the model to start with."""
        return open_model(self.model)

    def parameters(self, compressed: bool) -> Dict[str, Any]:
        """The parameters of the node to start; ``compressed`` is how it gets its images."""
        geometry = {"input." + name: value for name, value in self.geometry.facts().items()}
        card = self.card()
        areas = list(self.detected) if card.boxes is None else []
        return {
            "model": card.folder,
            "backend": self.backend,
            "device": self.device,
            "precision": self.precision,
            "num_threads": self.num_threads,
            "frame_policy": self.policy,
            "input.transport": "compressed" if compressed else "raw",
            "use_sim_time": self.sim_time,
            **({"detections.from_classes": areas} if areas else {}),
            **geometry,
        }


def _end_with_parent() -> None:
    """A command that is killed leaves no node behind, which would answer the next one's images."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class NodeProcess:
    """The segmentation node as a process of its own, under ``with``."""

    def __init__(
        self,
        parameters: Dict[str, Any],
        remaps: Sequence[str] = (),
        log: Optional[Any] = None,
        module: str = "segmentation_node.ros.main",
    ) -> None:
        """``log`` takes what it prints, an open file; without one it goes to the terminal."""
        command = [sys.executable, "-m", module, "--ros-args"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", "%s:=%s" % (name, text)]
        for remap in remaps:
            command += ["-r", remap]
        self.process = subprocess.Popen(
            command, env=dict(os.environ), stdout=log, stderr=log, preexec_fn=_end_with_parent
        )

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid

    def __enter__(self) -> "NodeProcess":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def check(self) -> None:
        """Raise ReplayError when the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ReplayError("the node ended with exit code %d; its log says why" % code)

    def stop(self, timeout_s: float = 10.0) -> int:
        """Ask it to end as Ctrl-C does and give its exit code; kill it when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class RunningNode:
    """A node that somebody else started: gone once nobody publishes its class map any more."""

    pid: Optional[int] = None  # it may be on another machine

    def __init__(self, graph: Any, target: str) -> None:
        """``graph`` is any rclpy node."""
        self._graph = graph
        self._topic = target + "/class_map"
        self._was_there = False

    def check(self) -> None:
        """Raise ReplayError when the node was there and is not any more."""
        is_there = self._graph.count_publishers(self._topic) > 0
        if self._was_there and not is_there:
            raise ReplayError("the node left: nothing publishes %s any more" % self._topic)
        self._was_there = is_there


@contextmanager
def target_of(
    options: TargetOptions, graph: Any, image_topic: str, compressed: bool
) -> Iterator[Union[NodeProcess, RunningNode]]:
    """The node that the options ask for; ``graph`` is any rclpy node.

    One that is started takes ``image_topic``, which is without ``/compressed``.
    """
    if options.node:
        yield RunningNode(graph, options.name)
        return
    with NodeProcess(options.parameters(compressed), ["image:=" + image_topic]) as process:
        yield process


class NodeStatus:
    """Subscribes to one node's label info and diagnostics on behalf of another node."""

    def __init__(self, node: Any, target: str) -> None:
        self.label_info: Any = None
        self._prefix = target.strip("/") + ":"
        self._statuses: Deque[Any] = deque(maxlen=STATUSES_KEPT)
        node.create_subscription(
            LabelInfo, target + "/label_info", self._on_label_info, latched_qos()
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    @property
    def diagnostics(self) -> List[Any]:
        """The node's last statuses, oldest first."""
        return list(self._statuses)

    def labels(self) -> LabelSet:
        """The label set of a node that is ready. Raises LabelsError as ``told_label_set`` does."""
        return told_label_set(self.label_info)

    @property
    def tells_backend(self) -> bool:
        """Whether the diagnostics have said what runs the model."""
        return bool(self._of_model())

    def facts(self, options: TargetOptions) -> Dict[str, Any]:
        """What ran, as a node that is ready says of itself, and on which machine."""
        found: Dict[str, Any] = {"model": self.label_info.model}
        values = self._of_model()
        backend = values.get("backend", "")
        if not options.node and backend in BACKENDS:
            kind = BACKENDS[backend].kind_for(values.get("precision", ""))
            found["model_sha256"] = options.card().artifact(kind).sha256
        found["label_set"] = self.label_info.label_set
        for key in ("backend", "device", "precision", "frame_policy"):
            if key in values:
                found[key] = values[key]
        found.update(environment_facts())
        return found

    def _of_model(self) -> Dict[str, str]:
        """The newest status that tells of the model, by key: with several cameras not each does."""
        for status in reversed(self._statuses):
            values = {item.key: item.value for item in status.values}
            if "backend" in values:
                return values
        return {}

    def _on_label_info(self, message: LabelInfo) -> None:
        self.label_info = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._statuses.extend(
            status for status in message.status if status.name.startswith(self._prefix)
        )


def image_inputs(graph: Any, target: str) -> List[Tuple[str, str]]:
    """Topic and type of the images that a node, named in full, subscribes to now.

    ``graph`` is any rclpy node. Empty while the node is not there or does not want images.
    """
    namespace, _, name = target.rpartition("/")
    try:
        topics = graph.get_subscriber_names_and_types_by_node(name, namespace or "/")
    except NodeNameNonExistentError:
        return []
    return [(topic, kind) for topic, kinds in topics for kind in kinds if kind in IMAGE_TYPES]


@contextmanager
def joined_graph() -> Iterator[None]:
    """Take part in the graph; Ctrl-C stays Python's, so that results can still be written.

    SIGTERM is taken as Ctrl-C is: the node that was started has to be ended too.
    """
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        rclpy.shutdown()


def prepare_middleware(stay_local: bool = True) -> None:
    """Give big images a large shared-memory segment and stay on this machine, unless told."""
    distribution = os.environ.get("ROS_DISTRO")
    is_humble = distribution == "humble"
    if stay_local:
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        if is_humble:
            os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
    if is_humble and os.environ.get("ROS_LOCALHOST_ONLY") == "1":
        return  # Humble only adds a local transport to those of a profile, which stay open
    profile = os.path.join(os.path.dirname(models_folder()), "config", "fastdds_large_images.xml")
    variables = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if not os.path.isfile(profile) or any(name in os.environ for name in variables):
        return
    if distribution:
        # From Kilted on Fast DDS warns of the first one, which those before it need.
        is_older = distribution in ("humble", "iron", "jazzy")
        os.environ[variables[0 if is_older else 1]] = os.path.abspath(profile)
    else:
        os.environ.update(dict.fromkeys(variables, os.path.abspath(profile)))


def spin_once(executor: Any, timeout_s: float) -> None:
    """One turn of an executor, a tenth of a second at most; Ctrl-C comes between turns.

    Within one it would meet rclpy's bindings, which make another error of it.
    """
    with uninterrupted():
        executor.spin_once(timeout_sec=min(LONGEST_TURN_S, max(0.0, timeout_s)))


def resident_mb(pid: int) -> float:
    """Memory that a process holds now, in MiB; NaN when it has ended."""
    try:
        with open("/proc/%d/statm" % pid) as stream:
            pages = int(stream.read().split()[1])
    except (OSError, IndexError):
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2.0**20
