"""The temperature of a graph's confidence: softmax(scores / temperature) of the chosen class.

It is one factor on ``score - highest score``, in front of the exponential. The class map comes from
the scores themselves and stays to the bit what it was.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segmentation_node.backends.onnx_edits import keep_output
from segmentation_node.backends.onnx_file import TEMPERATURE, temperature_text
from segmentation_node.errors import CardError
from segmentation_node.importing.model_folder import confidence_entry, write_card
from segmentation_node.importing.original import on_onnxruntime
from segmentation_node.model_card import (
    BOXES,
    CARD_FILE,
    ModelCard,
    read_card,
    verified_path,
)
from segmentation_node.yaml_and_json import read_yaml

BEHIND_THE_EXPONENTIAL = ("Cast", "Add", "Mul", "Div", "Reciprocal", "ReduceSum")
"""Of 255 / sum(exp(score - highest score)) + 0.5."""
FACTOR, SCALED = "inverse_temperature", "scaled_differences"


class Scores(NamedTuple):
    """A model's scores: ``run`` takes an image, uint8 (H, W, 3) of the network's size.

    It gives each score less the highest of its pixel, float32 (channels, H, W), before any
    temperature. ``ids`` are the channels' classes.
    """

    run: Callable[[np.ndarray], np.ndarray]
    ids: list[int]


def set_temperature(folder: Path, temperature: float) -> None:
    """Give all graphs of a model folder, and its card, this temperature.

    A confidence measured at another one leaves the card. Raises CardError where that of the graphs
    is none that was made here, and OutputError as ``write_card``; then nothing changes.
    """
    card, content = read_card(str(folder)), read_yaml(str(folder / CARD_FILE))
    graphs = [
        item for item in card.artifacts if item.kind.startswith("onnx") and item.kind != BOXES
    ]
    models = {item.file: onnx.load(verified_path(str(folder), item)) for item in graphs}
    for model in models.values():
        put_into(model, temperature, card.name)
    files = {file: model.SerializeToString() for file, model in models.items()}
    for item in content["artifacts"]:
        if item["file"] in files:
            item["sha256"] = hashlib.sha256(files[item["file"]]).hexdigest()
    # What was measured at another temperature is not so any more.
    measured = card.confidence if temperature == card.temperature else None
    entry = confidence_entry(measured, temperature)
    content.pop("confidence", None)
    write_card(folder, {**content, **({"confidence": entry} if entry else {})}, files)


def put_into(model: onnx.ModelProto, temperature: float, name: str) -> None:
    """Set the temperature of a graph in place. Raises CardError; ``name`` is the model's."""
    graph = model.graph
    softmax = _Softmax(graph, name)
    nodes = [node for node in graph.node if node is not softmax.scaling]
    softmax.exponential.input[0] = softmax.differences
    if temperature != 1.0:
        factor = numpy_helper.from_array(np.array(1.0 / temperature, np.float32), FACTOR)
        kept = [item for item in graph.initializer if item.name != FACTOR]
        del graph.initializer[:]
        graph.initializer.extend([*kept, factor])
        scaling = helper.make_node("Mul", [softmax.differences, FACTOR], [SCALED], name=SCALED)
        nodes.insert(nodes.index(softmax.exponential), scaling)
        softmax.exponential.input[0] = SCALED
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused_constants(graph)
    props = {item.key: item.value for item in model.metadata_props if item.key != TEMPERATURE}
    helper.set_model_props(model, {**props, **temperature_props(temperature)})
    onnx.checker.check_model(model, full_check=True)


def temperature_props(temperature: float) -> dict[str, str]:
    """What a graph's metadata say of its temperature; nothing of 1."""
    text = temperature_text(temperature)
    return {} if text is None else {TEMPERATURE: text}


def open_scores(card: ModelCard) -> Scores:
    """The scores of the card's ``onnx`` artifact on ONNX Runtime. Raises CardError."""
    model = onnx.load(card.artifact_path("onnx"))
    softmax = _Softmax(model.graph, card.name)
    ids = _channel_ids(model.graph, len(card.labels), card.name)
    value = helper.make_tensor_value_info(softmax.differences, TensorProto.FLOAT, None)
    model.graph.output.append(value)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "scores.onnx"
        path.write_bytes(keep_output(model.SerializeToString(), softmax.differences))
        session = on_onnxruntime(path, "image")
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value

    def run(image_hwc: np.ndarray) -> np.ndarray:
        image_nhwc = np.repeat(image_hwc[np.newaxis], batch, axis=0)
        return session(image_nhwc)[softmax.differences][0]

    return Scores(run, ids)


class _Softmax:
    """The softmax of a graph's confidence: 1 / sum(exp(score - highest)), scaled or not.

    Raises CardError where there is none: the confidence of other networks is their own.
    """

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self._by_output = {output: node for node in graph.node for output in node.output}
        node = self._by_output.get("confidence")
        while node is not None and node.op_type in BEHIND_THE_EXPONENTIAL:
            node = self._before(node)
        below = None if node is None or node.op_type != "Exp" else self._before(node)
        self.scaling = below if below is not None and below.op_type == "Mul" else None
        if self.scaling is not None:
            below = self._before(self.scaling)
        if node is None or below is None or below.op_type != "Sub":
            raise CardError(
                f"model {name}: its confidence is no softmax that was put into the graph here, so "
                "it takes no temperature"
            )
        self.exponential = node
        self.differences = below.output[0]

    def _before(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The one node that gives what this one computes with; its other inputs are constants."""
        found = [self._by_output[name] for name in node.input if name in self._by_output]
        return found[0] if len(found) == 1 else None


def _channel_ids(graph: onnx.GraphProto, classes: int, name: str) -> list[int]:
    """The class of each channel, as the class map is made: ArgMax, and perhaps a table."""
    by_output = {output: node for node in graph.node for output in node.output}
    constants = {item.name: item for item in graph.initializer}
    node = by_output["class_map"]
    while node.op_type == "Cast":
        node = by_output[node.input[0]]
    if node.op_type == "ArgMax":
        return list(range(classes))
    if node.op_type == "Gather" and node.input[0] in constants:
        return [int(value) for value in numpy_helper.to_array(constants[node.input[0]])]
    raise CardError(f"model {name}: its classes come from {node.op_type}; expected ArgMax")


def _drop_unused_constants(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
