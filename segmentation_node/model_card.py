"""The model card, ``model.yaml``: the only contract between training and run time.

It stands beside the artifacts that it names. Reading it is strict: an unknown or missing key, a
wrong type, or an artifact whose hash differs is one CardError.
"""

import hashlib
import math
import os
import re
import shlex
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

from segmentation_node.errors import CardError, ContentError, LabelsError, shown
from segmentation_node.labels import LABEL_SETS, LabelSet, parse_label_set
from segmentation_node.plain_values import build
from segmentation_node.yaml_and_json import read_yaml

PACKAGE_FOLDER = os.path.dirname(os.path.abspath(__file__))
CARD_FILE = "model.yaml"
RESIZE_POLICIES = ("stretch", "crop", "letterbox")
OUTPUTS = ("class_map", "confidence")
NO_WEIGHTS = "an imported network has no weights for PyTorch"
MOST_PROPOSALS = 2000
LONGEST_FILE = 255  # characters of a file's name, as file systems have it
WEIGHTS = "weights"
BOXES, BOX_WEIGHTS = "onnx_boxes", "weights_boxes"
ARTIFACT_KINDS = (
    "onnx", "onnx_float", "onnx_fp16", "onnx_int8", WEIGHTS, BOXES, BOX_WEIGHTS,
)  # fmt: skip
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
PRECISIONS_OF_KINDS = {"onnx_fp16": "fp16", "onnx_int8": "int8"}
"""Of a file, where an accuracy does not say another; of the others fp32."""
Size = Tuple[int, int]
"""Height and width in pixels, in text HxW."""


@dataclass(frozen=True)
class NetworkInfo:
    """Which network: its name in ``NETWORKS``, its options, its number of parameters."""

    name: str
    options: Dict[str, Any]
    parameters: int


@dataclass(frozen=True)
class InputInfo:
    """What the graph takes: uint8 RGB of this size; normalisation happens inside the graph."""

    height: int
    width: int
    resize: str
    mean_rgb: List[float]
    std_rgb: List[float]


@dataclass(frozen=True)
class WeightsInfo:
    """Where the weights come from: data, its licence, and the command that made them.

    ``trained_classes`` are the train ids that occurred in the data, where not all of the label
    set did: the graph gives no others. Empty: all.
    """

    data: str
    licence: str
    provenance: str
    trained_classes: List[int] = field(default_factory=list)


@dataclass(frozen=True)
class SourceInfo:
    """Of an imported network: the foreign file, its sha256, its family and its licence."""

    file: str
    sha256: str
    family: str
    licence: str


@dataclass(frozen=True)
class AccuracyInfo:
    """What ``evaluation dataset`` computes from the shipped file on one split.

    ``artifact`` is the kind of that file, ``height`` and ``width`` its size where that is not the
    card's own, ``precision`` what it was computed in where that is said, ``agreement`` the share of
    the pixels that get the class of fp32, 0-1.
    """

    dataset: str
    split: str
    frames: int
    mean_iou: float
    global_accuracy: float
    artifact: str = "onnx"
    precision: str = ""
    height: Optional[int] = None
    width: Optional[int] = None
    agreement: Optional[float] = None

    @property
    def computed_in(self) -> str:
        """The precision, one of ``PRECISIONS``; where it is not said, that of the file."""
        return self.precision or PRECISIONS_OF_KINDS.get(self.artifact, "fp32")


@dataclass(frozen=True)
class ConfidenceInfo:
    """How sure the model is on validation data, without a threshold: all 0-1.

    ``mean`` of all frames, ``deviation`` of single frames' means from it (standard deviation), and
    the share of the pixels that got no class. ``evaluation confidence`` writes it.
    """

    mean: float
    deviation: float
    unlabelled_share: float


@dataclass(frozen=True)
class BoxesInfo:
    """A box head (Fast R-CNN) on the network's encoder, in the artifact ``onnx_boxes``.

    ``classes`` are names of the label set, in the order of the head's scores; ``shapes`` has for
    each the usual widths of one thing, as multiples of its height. A run of it takes so many
    ``proposals``; ``head`` are the head's options in ``networks.box_head``. ``ap_50`` is the
    average precision at IoU 0.5, mean of the classes, of the shipped files on one split, and
    ``ap_50_components`` that of boxes around the class map's connected areas.
    """

    classes: List[str]
    shapes: Dict[str, Any]
    proposals: int
    head: Dict[str, Any]
    dataset: str
    split: str
    frames: int
    ap_50: float
    ap_50_components: float


@dataclass(frozen=True)
class ArtifactInfo:
    """One file beside the card: its kind of ``ARTIFACT_KINDS``, sha256, and format version.

    ``onnx`` takes and gives uint8; ``onnx_float`` float32 and int32, for TensorRT before 8.5;
    ``onnx_fp16`` is uint8 outside and half inside, for TensorRT 11; ``onnx_int8`` is uint8 outside
    and has int8 convolutions inside, for CPUs. The same graph may be there in several sizes, the
    card's own where none is said, and for several images a run. Weights serve them all.
    ``onnx_boxes`` takes the output ``features`` that the ``onnx`` file then has, and boxes;
    ``weights_boxes`` are the same for PyTorch.
    """

    file: str
    kind: str
    sha256: str
    version: str
    height: Optional[int] = None
    width: Optional[int] = None
    batch: Optional[int] = None


@dataclass(frozen=True)
class ModelCard:
    """A validated card and the folder that it was read from.

    ``temperature``, of the key ``confidence``, is what the graphs divide their scores by before the
    softmax that is the confidence.
    """

    name: str
    network: NetworkInfo
    label_set: str
    input: InputInfo
    outputs: List[str]
    weights: WeightsInfo
    accuracy: List[AccuracyInfo]
    artifacts: List[ArtifactInfo]
    source: Optional[SourceInfo] = None
    confidence: Optional[ConfidenceInfo] = None
    temperature: float = 1.0
    boxes: Optional[BoxesInfo] = None
    folder: str = field(default="", compare=False)
    own_labels: Optional[LabelSet] = None
    is_resized: bool = field(default=False, compare=False)  # by ``at_size``

    @property
    def labels(self) -> LabelSet:
        """The label set that the card carries, or names."""
        return self.own_labels or LABEL_SETS[self.label_set]

    @property
    def input_size(self) -> Size:
        """Height and width of the network's input in pixels."""
        return self.input.height, self.input.width

    def sizes(self, kind: str) -> List[Size]:
        """Those at which there is an artifact of this kind, the largest first.

        Weights serve every size that a graph has.
        """
        graphs = [item for item in self.artifacts if kind in (item.kind, WEIGHTS)]
        return sorted({self._size_of(item) for item in graphs}, key=_pixels_first, reverse=True)

    def at_size(self, size: Size) -> "ModelCard":
        """The same card for another of its sizes, with what it holds of that size alone.

        Raises CardError that says how to add one that it has not.
        """
        if size == self.input_size:
            return self
        sizes = self.sizes(WEIGHTS)
        if size not in sizes:
            raise CardError(
                "%s: no artifact of %s; it has %s%s"
                % (
                    self._path(),
                    size_text(size),
                    ", ".join(map(size_text, sizes)),
                    self._how_to_add("onnx", size),
                )
            )
        has_boxes = any(
            item.kind == BOXES and self._size_of(item) == size for item in self.artifacts
        )
        return replace(
            self,
            input=replace(self.input, height=size[0], width=size[1]),
            accuracy=[_as_own(item) for item in self.accuracy if self._size_of(item) == size],
            artifacts=[
                _as_own(item)
                for item in self.artifacts
                if item.kind in (WEIGHTS, BOX_WEIGHTS) or self._size_of(item) == size
            ],
            boxes=self.boxes if has_boxes else None,
            confidence=None,  # was measured at the card's own
            is_resized=True,
        )

    def mean_ious(self, kind: str, precision: str) -> Dict[Tuple[str, str], float]:
        """What an artifact of the card's size scores, by data set and split.

        Of weights it is their graph's. Where no figure is of this precision, that of the file
        stands for it.
        """
        kind = "onnx" if kind == WEIGHTS else kind
        found = {}
        for wanted in ("", precision):
            for item in self.accuracy:
                is_own = self._size_of(item) == self.input_size
                if is_own and item.artifact == kind and item.precision == wanted:
                    found[item.dataset, item.split] = item.mean_iou
        return found

    def artifacts_of(self, kind: str) -> List[ArtifactInfo]:
        """Those of a kind that have the card's size, the fewest images a run first."""
        found = [
            item
            for item in self.artifacts
            if item.kind == kind and self._size_of(item) == self.input_size
        ]
        return sorted(found, key=lambda item: item.batch or 1)

    def offers(self, kind: str) -> bool:
        """Whether there is an artifact of this kind."""
        return bool(self.artifacts_of(kind))

    def batch_for(self, kind: str, images: int) -> int:
        """The batch of the artifact that takes so many images at once, or else the most of all.

        0 where the card speaks of none.
        """
        batches = [item.batch for item in self.artifacts_of(kind) if item.batch is not None]
        enough = [batch for batch in batches if batch >= images]
        return min(enough) if enough else max(batches, default=0)

    def artifact(self, kind: str, batch: int = 0) -> ArtifactInfo:
        """The artifact of this kind, where there are several that for a batch of so many images.

        Where none is, or ``batch`` is 0, the one for the fewest. Raises CardError when the card
        has none; of a form of the graph it says how to add it.
        """
        found = self.artifacts_of(kind)
        for artifact in [item for item in found if batch and item.batch == batch] + found:
            return artifact
        raise CardError(
            "%s: no artifact of kind %r; it has %s%s"
            % (
                self._path(),
                kind,
                [artifact.kind for artifact in self.artifacts],
                self._how_to_add(kind),
            )
        )

    def artifact_path(self, kind: str, batch: int = 0) -> str:
        """Path of that artifact, after its hash was checked.

        Raises CardError as ``artifact`` does, and when the file is missing, or its hash differs.
        """
        return verified_path(self.folder, self.artifact(kind, batch))

    def command_to_add(self, kind: str, size: Optional[Size] = None) -> str:
        """The command that makes this form of the graph, in another size where one is given, or
        its weights.

        Empty: none does.
        """
        _, _, variant = kind.partition("onnx_")
        size = self.input_size if self.is_resized else size
        if kind == WEIGHTS:
            if self.source is not None:
                return ""
            variant, size = kind, None
        if not variant and size is None:
            return ""
        options = "" if size is None else " --size " + size_text(size)
        if self.source is not None:
            lacks_images = variant == "int8" and "--images" not in self.weights.provenance
            return self.weights.provenance + options + (" --images FOLDER" if lacks_images else "")
        folder = shlex.quote(os.path.abspath(self.folder))
        command = "python3 -m training.add_variants %s --variant %s" % (folder, variant or "uint8")
        # Ranges of int8 come from the images that it was trained on, figures of a size from others.
        needs_data = variant == "int8" or size is not None
        return command + options + (" --dataset NAME --root FOLDER" if needs_data else "")

    def _how_to_add(self, kind: str, size: Optional[Size] = None) -> str:
        command = self.command_to_add(kind, size)
        if command and self.source is not None:
            return "; import the network again: %s" % command
        if command:
            return "; add it on a machine with PyTorch: %s" % command
        if kind == WEIGHTS and self.source is not None:
            return "; %s: choose another backend than torch" % NO_WEIGHTS
        return ""

    def _size_of(self, item: Any) -> Size:
        """Of an artifact or of a figure."""
        return item.height or self.input.height, item.width or self.input.width

    def _path(self) -> str:
        return os.path.join(self.folder, CARD_FILE)


def size_text(size: Size) -> str:
    """Height and width as ``--size`` takes them."""
    return "%dx%d" % size


def _pixels_first(size: Size) -> Tuple[int, Size]:
    return size[0] * size[1], size


def _as_own(item: Any) -> Any:
    """An artifact or a figure whose size is the card's own."""
    return replace(item, height=None, width=None)


def read_card(folder: str) -> ModelCard:
    """Read and validate ``folder/model.yaml``. Raises CardError, one line each."""
    path = os.path.join(folder, CARD_FILE)
    if not os.path.isdir(folder):
        raise CardError("%s: no such model folder" % folder)
    if not os.path.isfile(path):
        raise CardError("%s: no %s in this model folder" % (folder, CARD_FILE))
    try:
        values = read_yaml(path)
    except ContentError as error:
        raise CardError(str(error)) from error
    return parse_card(values, folder)


def parse_card(values: Any, folder: str) -> ModelCard:
    """Validate the values of a card that lies, or will lie, in ``folder``. Raises CardError."""
    path = os.path.join(folder, CARD_FILE)
    own_labels = None
    if isinstance(values, dict) and isinstance(values.get("label_set"), dict):
        own_labels = _own_labels(values["label_set"], path)
        values = dict(values, label_set=own_labels.name)
    temperature = 1.0
    given = values.get("confidence") if isinstance(values, dict) else None
    if isinstance(given, dict) and "temperature" in given:
        temperature, values = _without_temperature(values, path)
    unset = ("folder", "own_labels", "is_resized", "temperature")
    try:
        card = build(ModelCard, values, "the card", unset)
    except ValueError as error:
        raise CardError("%s: %s" % (path, error)) from error
    card = replace(card, temperature=temperature, folder=folder, own_labels=own_labels)
    _check_values(card, path)
    return card


def open_model(model: str, size: str = "") -> ModelCard:
    """The card of a model given as a folder, or as a shipped model's name. Raises CardError.

    ``size``, HxW, is one of its other sizes.
    """
    card = read_card(_find_model(model))
    if not size:
        return card
    found = re.match(r"(\d{1,5})x(\d{1,5})\Z", size)
    if found is None:
        raise CardError("size %s is not HxW, like 360x480" % shown(size))
    return card.at_size((int(found.group(1)), int(found.group(2))))


def _find_model(model: str) -> str:
    """Folder of a model given as a folder, or as a shipped model's name.

    Raises CardError that lists the models there are.
    """
    folder = os.path.expanduser(model)
    if os.path.isdir(folder):
        return folder
    known = shipped_models()
    if model in known:
        return os.path.join(models_folder(), model)
    raise CardError(
        "model %r is neither a folder nor a model in %s; there are: %s"
        % (model, models_folder() or "share/segmentation_node/models", ", ".join(known) or "none")
    )


def shipped_models() -> List[str]:
    """Names of the shipped models, sorted."""
    folder = models_folder()
    return sorted(
        name
        for name in (os.listdir(folder) if folder else [])
        if os.path.isfile(os.path.join(folder, name, CARD_FILE))
    )


def models_folder() -> str:
    """The folder of the shipped models; empty when there is none.

    ``models/`` beside the package where it runs from the source tree, otherwise
    ``share/segmentation_node/models`` in a prefix of ``AMENT_PREFIX_PATH``.
    """
    candidates = [os.path.join(os.path.dirname(PACKAGE_FOLDER), "models")]
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        candidates.append(os.path.join(prefix, "share", "segmentation_node", "models"))
    for candidate in candidates:
        if os.path.isdir(candidate):
            return candidate
    return ""


def sha256_of(*paths: str) -> str:
    """SHA-256 of a file, or of several one after the other, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as content:
            for block in iter(partial(content.read, 1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def verified_path(folder: str, artifact: ArtifactInfo) -> str:
    """Path of a card's artifact, after its hash was checked. Raises CardError."""
    path = os.path.join(folder, artifact.file)
    if not os.path.isfile(path):
        raise CardError("%s: no such file, but the model card names it" % path)
    found = sha256_of(path)
    if found != artifact.sha256:
        raise CardError(
            "%s: sha256 is %s but the model card expects %s; fetch the file again, or export anew"
            % (path, found, artifact.sha256)
        )
    return path


def _own_labels(content: Any, path: str) -> LabelSet:
    try:
        labels = parse_label_set(content, "%s: label_set" % path)
    except LabelsError as error:
        raise CardError(str(error)) from error
    if labels != LABEL_SETS.get(labels.name, labels):
        raise CardError(
            "%s: label_set.name %s is that of a built-in label set with other classes; choose "
            "another name" % (path, shown(labels.name))
        )
    return labels


def _check_values(card: ModelCard, path: str) -> None:
    if card.own_labels is None:
        _check_choice(card.label_set, sorted(LABEL_SETS), path, "label_set")
    for output in card.outputs:
        _check_choice(output, OUTPUTS, path, "outputs")
    if "class_map" not in card.outputs:
        raise CardError("%s: outputs %s lack 'class_map'" % (path, shown(card.outputs)))
    trained = card.weights.trained_classes
    if trained != sorted(set(trained) & set(range(len(card.labels)))):
        raise CardError(
            "%s: weights.trained_classes are %s; expected ascending train ids of %s, 0-%d"
            % (path, shown(trained), card.label_set, len(card.labels) - 1)
        )
    _check_input(card.input, path)
    for index, accuracy in enumerate(card.accuracy):
        _check_accuracy(accuracy, path, "accuracy[%d]" % index)
    for index, artifact in enumerate(card.artifacts):
        _check_artifact(artifact, path, "artifacts[%d]" % index)
    _check_each_is_one(card, path)
    _check_confidence(card, path)
    _check_boxes(card, path)


def _check_input(given: InputInfo, path: str) -> None:
    _check_choice(given.resize, RESIZE_POLICIES, path, "input.resize")
    if given.height < 1 or given.width < 1:
        raise CardError(
            "%s: input is %dx%d; width and height must be positive"
            % (path, given.width, given.height)
        )
    mean_rgb, std_rgb = given.mean_rgb, given.std_rgb
    if len(mean_rgb) != 3 or len(std_rgb) != 3:
        raise CardError("%s: input.mean_rgb and input.std_rgb must have three values each" % path)
    if not all(map(math.isfinite, mean_rgb + std_rgb)) or min(std_rgb) <= 0:
        raise CardError(
            "%s: input.mean_rgb is %s and input.std_rgb %s; expected finite values, std above 0"
            % (path, shown(mean_rgb), shown(std_rgb))
        )


def _check_accuracy(accuracy: AccuracyInfo, path: str, where: str) -> None:
    _check_choice(accuracy.artifact, ARTIFACT_KINDS, path, "accuracy.artifact")
    if accuracy.precision:
        _check_choice(accuracy.precision, PRECISIONS, path, "accuracy.precision")
    agreement = accuracy.agreement
    if agreement is not None and not 0.0 <= agreement <= 1.0:
        raise CardError("%s: accuracy.agreement is %s; expected 0 to 1" % (path, agreement))
    _check_size(accuracy, path, where)


def _check_each_is_one(card: ModelCard, path: str) -> None:
    """Of a kind, size and batch there is one artifact."""
    kinds = [
        (item.kind, size_text(card._size_of(item)), item.batch or 1) for item in card.artifacts
    ]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise CardError(
                "%s: %d artifacts are of kind %r, size %s and batch %d; expected one, remove the "
                "others" % ((path, kinds.count(kind)) + kind)
            )


def _check_artifact(artifact: ArtifactInfo, path: str, where: str) -> None:
    _check_choice(artifact.kind, ARTIFACT_KINDS, path, "artifacts.kind")
    if os.path.basename(artifact.file) != artifact.file or len(artifact.file) > LONGEST_FILE:
        raise CardError(
            "%s: artifact %s must be a file name in the card's own folder"
            % (path, shown(artifact.file))
        )
    _check_size(artifact, path, where)
    if artifact.batch is not None and artifact.batch < 1:
        raise CardError("%s: %s.batch is %d; expected 1 or more" % (path, where, artifact.batch))
    is_weights = artifact.kind in (WEIGHTS, BOX_WEIGHTS)
    if is_weights and (artifact.height, artifact.batch) != (None, None):
        raise CardError(
            "%s: %s are weights, which serve every size and batch; leave height, width and batch "
            "out" % (path, where)
        )


def _check_size(item: Any, path: str, where: str) -> None:
    given = [side for side in (item.height, item.width) if side is not None]
    if len(given) == 1 or any(side < 1 for side in given):
        raise CardError(
            "%s: %s has height %s and width %s; expected both, 1 or more, or neither"
            % (path, where, item.height, item.width)
        )


def _without_temperature(values: Dict[str, Any], path: str) -> Tuple[float, Dict[str, Any]]:
    """The temperature of a card, and its other values."""
    measured = dict(values["confidence"])
    temperature = measured.pop("temperature")
    is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not is_number or not 0.0 < temperature < float("inf"):
        raise CardError(
            "%s: confidence.temperature is %s; expected a number above 0, 1 leaves the confidence "
            "as it is" % (path, shown(temperature))
        )
    rest = {key: value for key, value in values.items() if key != "confidence"}
    return float(temperature), dict(rest, confidence=measured) if measured else rest


def _check_confidence(card: ModelCard, path: str) -> None:
    if card.confidence is None and card.temperature == 1.0:
        return
    if "confidence" not in card.outputs:
        raise CardError(
            "%s: there is a key confidence, but outputs %s lack it" % (path, shown(card.outputs))
        )
    for key, value in vars(card.confidence).items() if card.confidence else ():
        if not 0.0 <= value <= 1.0:
            raise CardError("%s: confidence.%s is %s; expected 0 to 1" % (path, key, value))


def _check_boxes(card: ModelCard, path: str) -> None:
    if (card.boxes is None) != (not card.offers(BOXES)):
        raise CardError(
            "%s: %s; expected both or neither"
            % (
                path,
                "there is an artifact onnx_boxes but no key boxes"
                if card.boxes is None
                else "there is a key boxes but no artifact onnx_boxes",
            )
        )
    if card.boxes is None:
        return
    boxes = card.boxes
    for name in boxes.classes:
        _check_choice(name, card.labels.names, path, "boxes.classes")
    if not boxes.classes or len(set(boxes.classes)) != len(boxes.classes):
        raise CardError(
            "%s: boxes.classes are %s; expected names, each once" % (path, shown(boxes.classes))
        )
    if sorted(boxes.shapes) != sorted(boxes.classes):
        raise CardError(
            "%s: boxes.shapes are of %s; expected those of the classes %s"
            % (path, shown(sorted(map(str, boxes.shapes))), shown(boxes.classes))
        )
    for name in boxes.classes:
        found = boxes.shapes[name]
        if not isinstance(found, list) or not found or not all(map(_is_shape, found)):
            raise CardError(
                "%s: boxes.shapes.%s is %s; expected widths as multiples of the height, each "
                "0.05 to 20" % (path, name, shown(found))
            )
    if not 1 <= boxes.proposals <= MOST_PROPOSALS:
        raise CardError(
            "%s: boxes.proposals is %d; expected 1 to %d" % (path, boxes.proposals, MOST_PROPOSALS)
        )


def _is_shape(value: Any) -> bool:
    return type(value) in (int, float) and 0.05 <= value <= 20.0


def _check_choice(found: Any, choices: Any, path: str, key: str) -> None:
    if found not in choices:
        raise CardError(
            "%s: %s is %s; expected one of %s" % (path, key, shown(found), list(choices))
        )
