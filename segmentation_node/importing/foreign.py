"""A foreign file as it comes: what it holds, and what its input is."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from segmentation_node.errors import NetworkImportError, reason, shown
from segmentation_node.importing.head import Steps
from segmentation_node.importing.plan import Entry
from segmentation_node.model_card import sha256_of

COLORS = 3
MOST_BYTES = 2**31 - 1
"""Of weights in one ONNX file, which is a message of protobuf."""
TYPES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.UINT8: "uint8"}
MOVES = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that leave values as they are."""
ONNX = ".onnx"
_OPENVINO = "OpenVINO reads this but writes no ONNX, which a model folder holds"
_TORCH = (
    "PyTorch's, which holds no ONNX graph; export it in the code that made it: torch.onnx.export("
    "network.eval(), (torch.zeros(1, 3, HEIGHT, WIDTH),), 'NET.onnx'); what training/ made: python "
    "-m training.export"
)
_KERAS = "Keras's; export it there: model.export('NET.onnx', format='onnx')"
_PADDLE = (
    "PaddlePaddle's; convert it: paddle2onnx --model_dir FOLDER --model_filename model.pdmodel "
    "--params_filename model.pdiparams --save_file NET.onnx"
)
_TENSORRT = "an engine of TensorRT, for one GPU; give the ONNX file that it was built of"
OTHER_FORMATS = {
    ".xml": f"{_OPENVINO}; export the network that it was made of to ONNX",
    ".bin": "weights of OpenVINO or PyTorch; export the network that they are of to ONNX",
    ".tflite": f"{_OPENVINO}; convert it: python -m tf2onnx.convert --tflite FILE --opset 13 "
    "--output NET.onnx",
    **dict.fromkeys((".pt", ".pth", ".pt2", ".ckpt", ".safetensors"), _TORCH),
    ".zip": "an archive; unpack it, and give the .onnx that it holds",
    **dict.fromkeys((".keras", ".h5"), _KERAS),
    **dict.fromkeys((".pdmodel", ".pdiparams"), _PADDLE),
    **dict.fromkeys((".engine", ".plan", ".trt"), _TENSORRT),
}
"""By ending what a file is that is no ONNX, and what to do."""


@dataclass(frozen=True)
class Foreign:
    """The file, its digest, and what it holds.

    ``sha256`` is of the file, followed by those beside it that hold its weights, by name.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto

    @property
    def metadata(self) -> dict[str, str]:
        """What its exporter wrote into it, by key."""
        return {item.key: item.value for item in self.model.metadata_props}


def read_network(path: Path) -> Foreign:
    """An ONNX file, with the weights that it keeps beside itself.

    Raises NetworkImportError where it is none, was cut off, or lacks its weights.
    """
    if path.is_dir():
        inside = ", ".join(sorted(item.name for item in path.glob("*" + ONNX))[:8])
        found = f"a folder, in it {inside}" if inside else "a folder"
        raise NetworkImportError(f"{path}: {found}; expected a network, {ONNX}")
    if not path.is_file():
        raise NetworkImportError(f"{path}: no such file; expected a network, {ONNX}")
    if path.suffix.lower() in OTHER_FORMATS:
        raise NetworkImportError(f"{path}: {OTHER_FORMATS[path.suffix.lower()]}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise NetworkImportError(f"{path}: no whole ONNX file ({reason(error)})") from error
    if not model.graph.node or not model.graph.output:
        raise NetworkImportError(f"{path}: no whole ONNX file (it holds no graph)")
    beside = _load_external(path, model)
    return Foreign(path, sha256_of(*map(str, [path, *beside])), model)


def _load_external(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Take in the weights that are beside the file; which files they are in."""
    folder = path.absolute().parent  # as the run times have it, even where the file is a link
    files, loaded = set(), 0
    for tensor in model.graph.initializer:
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        if (folder / location).is_symlink():  # as Hugging Face's cache has it; onnx follows none
            raise NetworkImportError(
                f"{path}: its weights are in {shown(location)}, which is a link; copy both "
                f"as files: cp -rL {shlex.quote(str(folder))} COPY"
            )
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # missing, too short, outside of the folder: no common class
            raise NetworkImportError(
                f"{path}: its weights are in {shown(location)}, which cannot be read "
                f"({reason(error)[:120]}); put that file beside it, or export without external data"
            ) from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        files.add(folder / location)
        loaded += len(tensor.raw_data)
        if loaded > MOST_BYTES:
            raise NetworkImportError(
                f"{path}: its weights are more than 2 GiB, which one ONNX file, as a model folder "
                "has it, cannot hold; export it in float16, or take a smaller network"
            )
    return sorted(files)


def steps_of(model: onnx.ModelProto, output: str) -> Steps | None:
    """Scale and zero point of an output that is quantised last of all; None of others."""
    constants = {item.name: item for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    while output in makers and makers[output].op_type in MOVES:
        output = makers[output].input[0]
    maker = makers.get(output)
    if maker is None or maker.op_type != "QuantizeLinear" or len(maker.input) != 3:
        return None
    if not all(name in constants for name in maker.input[1:]):
        return None
    scale, zero = (numpy_helper.to_array(constants[name]) for name in maker.input[1:])
    return (scale.astype("float32").reshape(()), zero.reshape(())) if scale.size == 1 else None


def read_entry(
    foreign: Foreign, layout: str | None
) -> tuple[Entry, tuple[int | None, int | None], str]:
    """The input, its height and width where they are fixed, and what says where its channels lie.

    ``layout`` is what the user or a side file says. Raises NetworkImportError unless it is one
    picture of three channels.
    """
    graph, name = foreign.model.graph, foreign.path.name
    constants = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in constants]
    if len(inputs) != 1:
        listed = ", ".join(item.name for item in inputs[:8])
        raise NetworkImportError(f"{name}: found {len(inputs)} inputs ({listed}), expected one")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type not in TYPES:
        found = helper.tensor_dtype_to_string(tensor.elem_type).rpartition(".")[2]
        raise NetworkImportError(
            f"{name}: its input is {found}, expected one of {', '.join(TYPES.values())}"
        )
    # Some exporters write -1 for a side that is not fixed.
    shape = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    if len(shape) != 4:
        raise NetworkImportError(
            f"{name}: its input has {len(shape)} dimensions, expected 4: a batch, channels, height "
            "and width"
        )
    found_layout, channels, why = _channels(graph, inputs[0].name, shape, layout)
    if not found_layout:
        raise NetworkImportError(
            f"{name}: its input is {_shown(shape)}, which does not tell where the channels lie; "
            "give --layout nchw or nhwc"
        )
    if channels not in (COLORS, None):
        raise NetworkImportError(
            f"{name}: its input has {channels} channels ({_shown(shape)}, {found_layout}), "
            f"expected {COLORS}, red, green and blue"
        )
    height, width = shape[2:] if found_layout == "nchw" else shape[1:3]
    entry = Entry(
        name=inputs[0].name,
        dtype=TYPES[tensor.elem_type],
        layout=found_layout,
        batch=shape[0] or 1,
    )
    return entry, (height, width), why


def _channels(
    graph: onnx.GraphProto, entry: str, shape: list[int | None], layout: str | None
) -> tuple[str, int | None, str]:
    """Layout, number of channels, and what says so."""
    by_weights = _channels_of_first_convolution(graph, entry)
    if layout is not None:
        return layout, shape[1 if layout == "nchw" else 3] or by_weights, ""
    first, last = shape[1], shape[3]
    if by_weights is not None:
        return "nchw", by_weights, "its first convolution takes them there"
    if COLORS in (first, last) and first != last:
        found = "nchw" if first == COLORS else "nhwc"
        return found, COLORS, f"its shape is {_shown(shape)}"
    if first is not None and first <= 4:
        return "nchw", first, ""
    if last is not None and last <= 4:
        return "nhwc", last, ""
    return "", None, ""


def _channels_of_first_convolution(graph: onnx.GraphProto, entry: str) -> int | None:
    """Channels that a convolution takes right from the input; they come first then."""
    weights = {item.name: item.dims for item in graph.initializer if len(item.dims) > 1}
    for node in graph.node:
        takes = list(node.input[:2])
        if node.op_type == "Conv" and takes[:1] == [entry] and takes[-1] in weights:
            groups = next((item.i for item in node.attribute if item.name == "group"), 1)
            return int(weights[takes[1]][1] * groups)
    return None


def _shown(shape: list[int | None]) -> str:
    return "x".join("?" if side is None else str(side) for side in shape)
