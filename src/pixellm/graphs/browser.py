"""Language graph for the browser: matrices in fp32, since onnxruntime-web has no fast product with blocks of integers.

The weights file stays as it is: the page unpacks the blocks once, into a file that exists in its memory alone.
"""

from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from pixellm.runtime.manifest import LANGUAGE, LANGUAGE_UNPACKED, MANIFEST, UNPACKED, Manifest, TensorPlace
from pixellm.runtime.packing import BLOCK

OWNER = "model."  # of the modules' weights in a graph


def write_unpacked(directory: Path) -> None:
    """Write the language graph for the browser beside that of a quantised model, whose manifest is there."""
    model = ir.load(directory / LANGUAGE)
    unpack_products(model, Manifest.read(directory / MANIFEST).tensors)
    ir.save(model, directory / LANGUAGE_UNPACKED)


def unpack_products(model: ir.Model, places: Iterable[TensorPlace]) -> None:
    """Replace the products with blocks of integers by those with fp32 matrices (N, K) in the file `UNPACKED`.

    There the matrices lie one after another in the order of `places`.
    """
    graph = model.graph
    matrices: dict[str, ir.Value] = {}
    end = 0
    for place in places:
        if place.kind.startswith("blocks"):
            shape = ir.Shape((place.shape[0], place.shape[1] * BLOCK))
            length = 4 * place.shape[0] * place.shape[1] * BLOCK
            name = f"{OWNER}{place.source}"
            value = ir.Value(name=f"{name}:unpacked", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
            value.const_value = ir.ExternalTensor(
                UNPACKED, end, length, ir.DataType.FLOAT, shape=shape, name=value.name or "", base_dir=""
            )
            matrices[f"{name}:{place.kind}"] = value
            end += length
    for node in [node for node in graph if node.op_type == "MatMulNBits"]:
        blocks = node.inputs[1]
        matrix = matrices[str(blocks and blocks.name)]
        graph.initializers.setdefault(matrix.name or "", matrix)
        product = ir.node("FusedMatMul", [node.inputs[0], matrix], {"transB": 1}, domain="com.microsoft")
        swap(graph, node, [product])
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def swap(graph: ir.Graph, old: ir.Node, new: list[ir.Node]) -> None:
    """Put nodes in the place of one; the last one's output takes the place of its output."""
    output, value = new[-1].outputs[0], old.outputs[0]
    output.name, output.shape, output.type = value.name, value.shape, value.type
    graph.insert_before(old, new)
    value.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(old, safe=True)
