"""What of a graph is 8 bits."""


def count_int8_convolutions(model):
    """Convolutions of which image and weights are 8 bits, in either notation of ONNX."""
    dequantised = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    return sum(
        node.op_type == "QLinearConv"
        or (node.op_type == "Conv" and dequantised.issuperset(node.input[:2]))
        for node in model.graph.node
    )
