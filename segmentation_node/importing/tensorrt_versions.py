"""Which TensorRT a graph can go to, by the operator tables of its ONNX parser.

From onnx-tensorrt's docs/operators.md at 8.2-GA, 8.5-GA, 8.6-GA and 10.1-GA. That of 8.2 has no
Reciprocal, but its parser takes it, by the code that later tables tell of. Those of 10.15 list
nothing less; that of 11 was not at hand, so 10's stands for it. What is said of uint8 is from 8.2's
convertDtype() and from what NvInferRuntime.h says of DataType. No graph was given to a TensorRT.
"""

from typing import NamedTuple

import onnx
from onnx import TensorProto

from segmentation_node.importing.model_folder import ARTIFACTS
from segmentation_node.importing.static_graph import opset_of

_8_2 = frozenset(
    """Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
    DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor
    GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual HardSigmoid Identity If ImageScaler InstanceNormalization IsNaN LRN LSTM
    LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
    Min Mul Neg NonMaxSuppression Not Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN
    RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign
    Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
    ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where""".split()
)
_8_5 = _8_2 | frozenset(
    """GridSample HardSwish MeanVarianceNormalization Mod NonZero OneHot RandomNormal
    RandomNormalLike RoiAlign Shrink Trilu Xor""".split()
)
_8_6 = _8_5 | {"GroupNormalization", "IsInf", "LayerNormalization"}
_10 = _8_6 | {"CastLike", "DeformConv", "Gelu", "Hardmax", "Mish"}

RESIZE_MODES = (b"nearest", b"linear")
UNKNOWN_TYPES = {
    TensorProto.INT16: "int16",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.STRING: "string",
    TensorProto.COMPLEX64: "complex",
}


class Parser(NamedTuple):
    """What a version's parser takes, and the variant of the graph that this version gets."""

    operators: frozenset[str]
    opset: int
    variant: str


PARSERS = {
    "8.2": Parser(_8_2, 13, "float"),
    "8.5": Parser(_8_5, 17, "uint8"),
    "8.6": Parser(_8_6, 17, "uint8"),
    "10": Parser(_10, 20, "uint8"),
    "11": Parser(_10, 20, "uint8"),
}


def refusals(graphs: dict[str, onnx.ModelProto]) -> dict[str, str]:
    """By version why it does not take the graph, empty where it does; ``graphs`` by variant.

    One of them may be missing, since it was left out.
    """
    return {name: _refusal(graphs.get(item.variant), item) for name, item in PARSERS.items()}


def _refusal(model: onnx.ModelProto | None, parser: Parser) -> str:
    if model is None:
        return f"{ARTIFACTS[parser.variant][0]} was left out"
    operators = sorted({node.op_type for node in model.graph.node} - parser.operators)
    if operators:
        return "no " + ", ".join(operators)
    if opset_of(model) > parser.opset:
        return f"opset {opset_of(model)} is above {parser.opset}"
    images = {
        item.name
        for item in model.graph.input
        if item.type.tensor_type.elem_type == TensorProto.UINT8
    }
    for node in model.graph.node:
        if images.intersection(node.input) and node.op_type != "Cast":
            return f"uint8 goes only into Cast, not into {node.op_type}"
        if parser.variant == "float" and _casts_to_uint8(node):
            return "no Cast to uint8"
        mode = {item.name: item.s for item in node.attribute}.get("mode", b"nearest")
        if node.op_type == "Resize" and mode not in RESIZE_MODES:
            return f"no Resize of mode {mode.decode()}"
    types = {item.data_type for item in model.graph.initializer} & set(UNKNOWN_TYPES)
    return "no " + ", ".join(sorted(UNKNOWN_TYPES[item] for item in types)) if types else ""


def _casts_to_uint8(node: onnx.NodeProto) -> bool:
    to = {item.name: item.i for item in node.attribute}.get("to")
    return node.op_type == "Cast" and to == TensorProto.UINT8
