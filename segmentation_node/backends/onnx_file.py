"""What an ONNX file has to be: inputs, outputs and metadata held against the model card."""

from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Tuple

from segmentation_node.backends.onnx_edits import files_of_weights
from segmentation_node.errors import BackendError, shown
from segmentation_node.model_card import ModelCard

FEATURES = "features"
"""The output that a box head takes."""
TEMPERATURE = "temperature"


class OnnxGraph(NamedTuple):
    """``inputs``: name, NumPy's name of the dtype, and shape of each; a size may be a name."""

    inputs: List[Tuple[str, str, List[Any]]]
    outputs: List[str]
    label_set: Optional[str]
    temperature: Optional[str] = None


def read_onnx(artifact_path: str) -> bytes:
    """The file's content, with all of its weights in it.

    A run time would look for others in the folder that the process happens to be in, and the card's
    sha256 does not hold them. Raises BackendError.
    """
    content = Path(artifact_path).read_bytes()
    try:
        files = files_of_weights(content)
    except (ValueError, RecursionError):  # the run time says what is wrong with it
        return content
    if files:
        raise BackendError(
            "%s: its weights are in %s, but the card's sha256 is of this file alone; write it anew "
            "with its weights inside, in Python: onnx.save(onnx.load(FILE), FILE), and put its "
            "sha256 on the card" % (artifact_path, shown(files[0]))
        )
    return content


def check_graph(artifact_path: str, graph: OnnxGraph, card: ModelCard) -> Tuple[int, int, int, int]:
    """The input shape (N, H, W, 3) of a graph as a run time describes it.

    Raises BackendError when it does not fit the card.
    """
    shape = graph.inputs[0][2] if len(graph.inputs) == 1 else []
    # The batch is the file's own; height and width are the card's.
    batch = shape[0] if shape and isinstance(shape[0], int) else 1
    expected_shape = (batch, card.input.height, card.input.width, 3)
    expected = [("image", "uint8", list(expected_shape))]
    if graph.inputs != expected:
        raise BackendError(
            "%s: inputs are %s, but the model card expects %s"
            % (artifact_path, graph.inputs, expected)
        )
    if graph.outputs not in (card.outputs, card.outputs + [FEATURES] * (card.boxes is not None)):
        raise BackendError(
            "%s: outputs are %s, but the model card says %s"
            % (artifact_path, graph.outputs, card.outputs)
        )
    if graph.label_set != card.label_set:
        raise BackendError(
            "%s: the graph's classes are label set %s, but the model card says %s"
            % (artifact_path, graph.label_set, card.label_set)
        )
    if graph.temperature != temperature_text(card.temperature):
        raise BackendError(
            "%s: the graph's temperature is %s, but the model card says %s; set it with: python3 "
            "-m segmentation_node.evaluation confidence --temperature"
            % (artifact_path, graph.temperature or 1, temperature_text(card.temperature) or 1)
        )
    return expected_shape


def temperature_text(temperature: float) -> Optional[str]:
    """As the metadata of a graph have it under ``TEMPERATURE``; None for 1, which is not said."""
    return None if temperature == 1.0 else "%g" % temperature


def check_boxes_graph(artifact_path: str, graph: OnnxGraph, card: ModelCard) -> Tuple[int, ...]:
    """The shape of the features (1, C, H, W) that a box head takes.

    Raises BackendError when the graph does not fit the card.
    """
    assert card.boxes is not None
    shape = graph.inputs[0][2] if graph.inputs else []
    expected = [(FEATURES, "float32", shape), ("rois", "float32", [card.boxes.proposals, 4])]
    is_fixed = len(shape) == 4 and all(isinstance(size, int) for size in shape)
    if graph.inputs != expected or not is_fixed or graph.outputs != ["scores", "deltas"]:
        raise BackendError(
            "%s: inputs are %s and outputs %s, but the model card expects features (1, C, H, W) "
            "and rois (%d, 4), scores and deltas"
            % (artifact_path, graph.inputs, graph.outputs, card.boxes.proposals)
        )
    if graph.label_set != card.label_set:
        raise BackendError(
            "%s: the graph's classes are label set %s, but the model card says %s"
            % (artifact_path, graph.label_set, card.label_set)
        )
    return tuple(shape)
