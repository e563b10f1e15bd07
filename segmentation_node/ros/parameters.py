"""The node's parameters: one table, declared with descriptors, read into ``Settings``."""

import difflib
import re
import threading
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from segmentation_node.backends import BACKENDS, EXECUTIONS, PRECISIONS, BackendOptions
from segmentation_node.errors import reason, shown
from segmentation_node.geometry import Geometry, make_geometry, roi_problem, rotation_problem
from segmentation_node.pipeline import OUTPUT_RESOLUTIONS

BACKEND_CHOICES = ("auto",) + tuple(sorted(BACKENDS))
PRECISION_CHOICES = ("auto",) + PRECISIONS
FRAME_POLICIES = ("latest", "every")
TRANSPORTS = ("raw", "compressed")
RELIABILITIES = ("auto", "reliable", "best_effort")
MAX_THREADS = 256
NODE_STATUS = "segmentation"  # behind the node's name in diagnostics, where a camera's name is too


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: ``choices`` or ``limits`` bound it; ``live`` ones change at any time.

    ``problem_of`` says what is wrong with a value otherwise; empty: nothing. The default of a list
    is empty, for which rclpy may give None. One that is ``per_camera`` is there for each camera as
    well, as NAME.it, by default not set: then it is what it is for all.
    """

    name: str
    default: Any
    description: str
    choices: Tuple[str, ...] = ()
    limits: Optional[Tuple[float, float]] = None
    live: bool = False
    per_camera: bool = False
    problem_of: Callable[[Any], str] = lambda value: ""

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows; rclpy refuses values outside its range."""
        descriptor = ParameterDescriptor(name=self.name, description=self.description)
        # An empty list has no type: rclpy would take it for one of bytes and refuse all others.
        descriptor.dynamic_typing = self.default is None or isinstance(self.default, list)
        constraints = ["one of " + ", ".join(self.choices)] if self.choices else []
        if not self.live:
            constraints.append("changes only while the node is unconfigured")
        descriptor.additional_constraints = "; ".join(constraints)
        if self.limits is not None and isinstance(self.default, int):
            limits = IntegerRange(from_value=int(self.limits[0]), to_value=int(self.limits[1]))
            descriptor.integer_range = [limits]
        elif self.limits is not None:
            low, high = self.limits
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        return descriptor

    def expected(self) -> str:
        """Type and range, for whoever gave something else."""
        kind = type(self.default).__name__
        if self.limits is None:
            return "%s expects a %s, for example %r" % (self.name, kind, self.default)
        return "%s expects a %s from %g to %g" % ((self.name, kind) + self.limits)

    def refusal(self, value: Any, configured: bool) -> str:
        """Why this value cannot be set now; empty when it can."""
        if configured and not self.live:
            return (
                "%s changes only while the node is unconfigured; run: "
                "ros2 lifecycle set NODE cleanup, where it is active deactivate first" % self.name
            )
        if self.choices and value not in self.choices:
            choices = ", ".join(self.choices)
            return "%s is %s; expected one of %s" % (self.name, shown(value), choices)
        problem = self.problem_of(value)
        return "%s: %s" % (self.name, problem) if problem else ""

    def no_deletion(self) -> str:
        """Why a parameter is not deleted, and what to do."""
        value = "null, then it is as for all" if self.default is None else repr(self.default)
        return "%s cannot be deleted; set it to %s" % (self.name, value)

    def of_camera(self, camera: str) -> "ParameterSpec":
        """The same for one camera, not set."""
        return replace(
            self,
            name="%s.%s" % (camera, self.name),
            default=None,
            description="The same for %s alone; not set, or null: as for all" % camera,
            problem_of=lambda value: self.problem_of(value) if _is_set(value) else "",
        )


def _is_set(value: Any) -> bool:
    """Whether a camera has a value of its own.

    ``ros2 param dump`` writes null: a file that is given at start makes "null" of that,
    ``ros2 param load`` "None".
    """
    if value is None or isinstance(value, str):
        return value not in (None, "null", "None")
    return isinstance(value, (int, float)) or len(value) > 0


def _plain(value: Any) -> Any:
    """A value to compare with another: ROS hands over lists as arrays too."""
    if not _is_set(value):
        return None
    return value if isinstance(value, (str, int, float)) else list(value)


def _problem_of_cameras(value: Any) -> str:
    """Names that topics and diagnostics can have, each once."""
    value = value or []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return "%s; expected a list of names, for example [front, left]" % shown(value)
    for name in value:
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", name):
            return (
                "%s is no name of a camera; expected letters, digits and underscores, no "
                "digit first" % shown(name)
            )
        if name == NODE_STATUS:
            return "%r is the name of the node's own status; choose another" % name
    twice = [name for name in value if value.count(name) > 1]
    return "%s is there twice; name each camera once" % shown(twice[0]) if twice else ""


def _problem_of_class_names(value: Any) -> str:
    """Names, each once; whether the model has such classes is seen when it is loaded."""
    value = value or []
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        return "%s; expected a list of class names, for example [car, pedestrian]" % shown(value)
    twice = [name for name in value if value.count(name) > 1]
    return "%s is there twice; name each class once" % shown(twice[0]) if twice else ""


def _specs_of_cameras(cameras: Any) -> List[ParameterSpec]:
    """What each of the named cameras has of its own; nothing where these are no names."""
    names = [] if _problem_of_cameras(cameras) else cameras or []
    return [spec.of_camera(name) for name in names for spec in PARAMETERS if spec.per_camera]


PARAMETERS = (
    ParameterSpec(
        "model", "fast_elu_squeezenet_camvid", "Model folder, or the name of a shipped model"
    ),
    ParameterSpec("backend", "auto", "Run time; auto says which and why", BACKEND_CHOICES),
    ParameterSpec("device", "auto", "auto, cpu, cuda or cuda:N"),
    ParameterSpec(
        "precision",
        "fp32",
        "Arithmetic of the network; auto: the fastest that keeps the classes, by the card",
        PRECISION_CHOICES,
    ),
    ParameterSpec(
        "execution", "auto", "How work reaches the device; auto: the backend's choice", EXECUTIONS
    ),
    ParameterSpec(
        "engine_dir",
        "~/.cache/segmentation_node",
        "Folder of TensorRT engines and of what auto measured",
    ),
    ParameterSpec(
        "frame_policy",
        "latest",
        "latest: the newest frame wins; every: all are processed, up to 512 MiB wait",
        FRAME_POLICIES,
    ),
    ParameterSpec("input.transport", "raw", "Which image topic is read", TRANSPORTS),
    ParameterSpec(
        "input.reliability",
        "auto",
        "QoS of the image subscription; auto: reliable if every publisher offers it",
        RELIABILITIES,
    ),
    ParameterSpec(
        "output_resolution", "input", "Size of class map, overlay, confidence", OUTPUT_RESOLUTIONS
    ),
    ParameterSpec(
        "num_threads", 0, "CPU threads of the run time; 0: its own choice", limits=(0, MAX_THREADS)
    ),
    ParameterSpec(
        "input.roi",
        [],
        "x, y, width, height of the part of the image that is segmented; empty: all of it",
        per_camera=True,
        problem_of=roi_problem,
    ),
    ParameterSpec(
        "input.rotation",
        0,
        "0, 90, 180 or 270 degrees, clockwise: what makes the image upright for the network",
        per_camera=True,
        problem_of=rotation_problem,
    ),
    ParameterSpec(
        "input.ignore_mask",
        "",
        "PNG of the image's size: what is not black in it is left unlabelled; empty: none",
        per_camera=True,
        problem_of=lambda value: "" if isinstance(value, str) else "expected a PNG's path",
    ),
    ParameterSpec(
        "grouping", "", "File of a grouping that folds the classes into fewer; empty: none"
    ),
    ParameterSpec(
        "cameras",
        [],
        "Names of cameras that the node serves in turn, each on NAME/image; empty: one, on image",
        problem_of=_problem_of_cameras,
    ),
    ParameterSpec(
        "batch_window_ms",
        0.0,
        "How long a frame waits for other cameras' to share a run; needs a graph with a batch",
        limits=(0.0, 1000.0),
    ),
    ParameterSpec(
        "detections.from_classes",
        [],
        "Names of classes whose connected areas are published as boxes; empty: the boxes of the "
        "model's box head, where it has one",
        problem_of=_problem_of_class_names,
    ),
    ParameterSpec(
        "deadline_ms",
        0.0,
        "The model's best size that keeps p95 of processing under this runs; 0: its own size",
        limits=(0.0, 1e6),
    ),
    ParameterSpec("autostart", True, "Configure and activate at start"),
    ParameterSpec(
        "overlay.alpha",
        0.5,
        "Weight of the class colours (0-1)",
        limits=(0.0, 1.0),
        live=True,
    ),
    ParameterSpec(
        "overlay.max_rate_hz",
        0.0,
        "Most overlays per second; 0: all",
        limits=(0.0, 1000.0),
        live=True,
    ),
    ParameterSpec("overlay.boxes", True, "Draw the boxes of ~/detections too", live=True),
    ParameterSpec(
        "confidence.threshold",
        0.0,
        "Pixels of less confidence (0-1) become unlabelled; needs a model that gives it",
        limits=(0.0, 1.0),
        live=True,
    ),
    ParameterSpec(
        "diagnostics.max_latency_ms",
        0.0,
        "WARN when p95 from receipt to published is longer; 0: off",
        limits=(0.0, 1e6),
        live=True,
    ),
    ParameterSpec(
        "diagnostics.min_rate_hz",
        0.0,
        "WARN when fewer frames come out; 0: off",
        limits=(0.0, 1e4),
        live=True,
    ),
    ParameterSpec(
        "diagnostics.input_timeout_s",
        2.0,
        "STALE after this long without input",
        limits=(0.1, 3600.0),
        live=True,
    ),
)


@dataclass(frozen=True)
class Settings:
    """What the parameters say while the node is configured; live ones are read per frame."""

    model: str
    backend: str
    options: BackendOptions
    frame_policy: str
    transport: str
    reliability: str
    output_resolution: str
    grouping: str
    cameras: Tuple[str, ...]
    geometries: Tuple[Geometry, ...]  # one for each camera
    batch_window_ms: float
    detected: Tuple[str, ...]
    deadline_ms: float


class NodeParameters:
    """Declares the table on a node and guards changes."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._specs = {spec.name: spec for spec in PARAMETERS}
        self._refused: Dict[str, str] = {}
        self._adopter = 0  # the thread that says what runs
        self.configured = False
        self.has_confidence = True  # of the loaded model; unknown counts as yes
        for spec in PARAMETERS:
            self._declare(spec)
        self._declare_for(self["cameras"])
        node.add_on_set_parameters_callback(self._check)

    def __getitem__(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def problems(self) -> List[str]:
        """What is wrong with the values given at start, one line each."""
        specs = [*PARAMETERS, *_specs_of_cameras(self["cameras"])]
        found = [spec.refusal(self[spec.name], False) for spec in specs]
        return list(self._refused.values()) + [line for line in found if line]

    def unknown(self) -> List[str]:
        """Parameters given at start that the node has not, each with the name that is nearest."""
        endings = tuple("." + spec.name for spec in PARAMETERS if spec.per_camera)
        found = []
        for name in sorted(self._node._parameter_overrides):
            # A camera may be named later.
            if name.endswith(endings) or self._node.has_parameter(name):
                continue
            near = difflib.get_close_matches(name, list(self._specs), 1)
            found.append("%s (%s?)" % (name, near[0]) if near else name)
        return found

    def settings(self) -> Settings:
        """The values that hold from configure to cleanup. Raises GeometryError on a mask."""
        options = BackendOptions(
            device=self["device"],
            precision=self["precision"],
            num_threads=self["num_threads"],
            engine_dir=self["engine_dir"],
            execution=self["execution"],
        )
        return Settings(
            model=self["model"],
            backend=self["backend"],
            options=options,
            frame_policy=self["frame_policy"],
            transport=self["input.transport"],
            reliability=self["input.reliability"],
            output_resolution=self["output_resolution"],
            grouping=self["grouping"],
            cameras=tuple(self["cameras"] or ()),
            geometries=tuple(self._geometry(name) for name in self["cameras"] or ("",)),
            batch_window_ms=self["batch_window_ms"],
            detected=tuple(self["detections.from_classes"] or ()),
            deadline_ms=self["deadline_ms"],
        )

    def _geometry(self, camera: str) -> Geometry:
        def value(name: str) -> Any:
            own = self["%s.%s" % (camera, name)] if camera else None
            return own if _is_set(own) else self[name]

        return make_geometry(
            value("input.roi"), value("input.rotation"), value("input.ignore_mask")
        )

    def _declare_for(self, cameras: Any) -> None:
        for spec in _specs_of_cameras(cameras):
            if spec.name not in self._specs:
                self._specs[spec.name] = spec
                self._declare(spec)

    def refusal_of(self, name: str, value: Any) -> str:
        """Why a parameter cannot have this value in any state; empty when it can."""
        return self._specs[name].refusal(value, False)

    def adopt(self, values: Dict[str, Any]) -> None:
        """Have parameters say what runs, whatever the node's state."""
        self._adopter = threading.get_ident()
        try:
            self._node.set_parameters([Parameter(name, value=values[name]) for name in values])
        finally:
            self._adopter = 0

    def _declare(self, spec: ParameterSpec) -> None:
        try:
            self._node.declare_parameter(spec.name, spec.default, spec.descriptor())
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            # The node stays up to say so, and to be given a better value.
            self._refused[spec.name] = "%s; %s" % (reason(error), spec.expected())
            self._node.declare_parameter(
                spec.name, spec.default, spec.descriptor(), ignore_override=True
            )

    def _check(self, changes: Sequence[Parameter]) -> SetParametersResult:
        for change in changes:
            refusal = self._refusal(change)
            if refusal:
                return SetParametersResult(successful=False, reason=refusal)
        for change in changes:
            self._refused.pop(change.name, None)
            if change.name == "cameras":
                self._declare_for(change.value)
        return SetParametersResult(successful=True)

    def _refusal(self, change: Parameter) -> str:
        if change.name == "confidence.threshold" and not self.has_confidence and change.value:
            return "confidence.threshold needs a model that gives a confidence; this one does not"
        spec = self._specs.get(change.name)
        if spec is None or not self._node.has_parameter(spec.name):
            return ""  # not ours; or being declared, and looked at by ``problems``
        if change.type_ == Parameter.Type.NOT_SET:
            return spec.no_deletion()
        is_fixed = self.configured and self._adopter != threading.get_ident()
        # ros2 param load gives all that ros2 param dump wrote.
        changes = _plain(change.value) != _plain(self[spec.name])
        return spec.refusal(change.value, is_fixed and changes)
