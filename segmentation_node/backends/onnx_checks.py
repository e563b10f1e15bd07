"""Whether an ONNX graph, as a run time describes it, is what its model card says."""

from typing import Any, List, NamedTuple, Optional, Tuple

from segmentation_node.errors import BackendError
from segmentation_node.model_card import ModelCard


class OnnxGraph(NamedTuple):
    """``inputs``: name, NumPy's name of the dtype, and shape of each; a size may be a name."""

    inputs: List[Tuple[str, str, List[Any]]]
    outputs: List[str]
    label_set: Optional[str]


def check_graph(artifact_path: str, graph: OnnxGraph, card: ModelCard) -> Tuple[int, int, int, int]:
    """The graph's input shape (N, H, W, 3). Raises BackendError when it does not fit the card."""
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
    if graph.outputs != card.outputs:
        raise BackendError(
            "%s: outputs are %s, but the model card says %s"
            % (artifact_path, graph.outputs, card.outputs)
        )
    if graph.label_set != card.label_set:
        raise BackendError(
            "%s: the graph's classes are label set %s, but the model card says %s"
            % (artifact_path, graph.label_set, card.label_set)
        )
    return expected_shape
