"""What TensorRT's ONNX parser takes, for the operators that networks here may use.

From onnx-tensorrt's docs/operators.md and importers at 8.2-GA and 10.1-GA; the notes are from the
importers. Types are ONNX's; 8.2 reads int64 where shapes and indices are meant, and casts it down.
operators.md of 10.15 lists nothing less for these operators. That of 11 was not at hand: its graphs
are held against 10's table. Being strongly typed, 11 inserts no casts; a valid graph needs none,
since ONNX itself asks for equal types.
"""

from onnx import TensorProto

FLOAT, HALF, INT32 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32
INT64, BOOL, UINT8 = TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8

REAL = {FLOAT, HALF}
NUMBER = REAL | {INT32}
ANY = NUMBER | {BOOL}

# Operator -> types of the tensors that it computes with.
TENSORRT_8_2 = {
    "Add": NUMBER,
    "ArgMax": REAL,
    "BatchNormalization": REAL,
    "Cast": ANY,
    "Concat": ANY,
    "Conv": REAL,
    "ConvTranspose": REAL,
    "DepthToSpace": NUMBER,
    "Div": NUMBER,
    "Elu": REAL,
    "Exp": REAL,
    "Gather": NUMBER,
    "Greater": NUMBER,
    "MaxPool": REAL,
    "Mul": NUMBER,
    "Pad": NUMBER,
    "Pow": REAL,
    "PRelu": REAL,
    "Reciprocal": REAL,
    "ReduceMax": REAL,
    "ReduceSum": REAL,
    "Relu": REAL,
    "Reshape": ANY,
    "Resize": REAL,
    "Slice": ANY,
    "Sub": NUMBER,
    "Transpose": ANY,
    "Unsqueeze": ANY,
    "Where": NUMBER,  # its importer refuses bool, which the table lists
}
# 10 computes in int64 too; uint8 is for inputs and outputs of the graph, next to a Cast.
TENSORRT_10 = {
    operator: types | ({INT64} if INT32 in types or operator in ("ArgMax", "ReduceMax") else set())
    for operator, types in TENSORRT_8_2.items()
}
TENSORRT_10["Cast"] = ANY | {INT64, UINT8}

# Inputs that are shapes, indices or paddings: int64 in every version, and constants, but for those
# of Gather, which may be what ArgMax gives.
INDEX_INPUTS = {
    "Gather": {1},
    "Pad": {1},
    "ReduceSum": {1},
    "Reshape": {1},
    "Resize": {2},  # its scales, which are floats
    "Slice": {1, 2, 3, 4},
    "Unsqueeze": {1},
}
RESIZE_MODES = {"nearest", "linear"}
RESIZE_COORDINATES = {
    "half_pixel",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "asymmetric",
    "align_corners",
}
# Inputs that have to be constants of the file.
CONSTANT_INPUTS = {
    **INDEX_INPUTS,
    "Conv": {1, 2},
    "ConvTranspose": {1, 2},
    "Gather": set(),
    "PRelu": {1},
}
