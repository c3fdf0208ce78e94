"""Language graph with unpacked matrices: it gives what that with blocks gives, and the shipped one is up to date."""

import shutil
from itertools import pairwise

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from pixellm.graphs.browser import unpack_products, write_unpacked
from pixellm.runtime.manifest import LANGUAGE, LANGUAGE_UNPACKED, MANIFEST, UNPACKED, WEIGHTS, TensorPlace
from pixellm.runtime.mini import SHIPPED
from pixellm.runtime.packing import quantise

WIDTHS = (64, 96, 32)  # of a product's input, between two products, of its output


def unpacked(values: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Return the fp32 matrix of blocks, by definition."""
    if bits == 4:
        values = np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:2], -1)
    return ((values.astype(np.float32) - (1 << bits - 1)) * scales[..., None]).reshape(len(values), -1)


def two_products(directory, bits: int) -> tuple[ir.Model, list[TensorPlace], list[np.ndarray]]:
    """A graph of two products with blocks, the places of its tensors, and the matrices."""
    noise, places, matrices, content, nodes = np.random.default_rng(0), [], [], b"", []
    initializers = []
    value = first = ir.Value(name="x", shape=ir.Shape([2, WIDTHS[0]]), type=ir.TensorType(ir.DataType.FLOAT))
    for number, (width, outputs) in enumerate(pairwise(WIDTHS)):
        forms = quantise(noise.standard_normal((outputs, width), np.float32), bits)
        matrices.append(unpacked(*forms, bits))
        own = []
        for kind, form in zip((f"blocks{bits}", f"scales{bits}"), forms, strict=True):
            places.append(TensorPlace(f"w{number}", kind, form.shape, form.dtype.name, len(content)))
            dtype, name = ir.DataType.from_numpy(form.dtype), f"model.w{number}:{kind}"
            own.append(ir.Value(name=name, shape=ir.Shape(form.shape), type=ir.TensorType(dtype)))
            own[-1].const_value = ir.ExternalTensor(
                WEIGHTS, len(content), form.nbytes, dtype, shape=ir.Shape(form.shape), name=name, base_dir=""
            )
            content += form.tobytes()
        initializers += own
        attributes = {"K": width, "N": outputs, "bits": bits, "block_size": 32}
        nodes.append(ir.node("MatMulNBits", [value, *own], attributes, domain="com.microsoft"))
        value = nodes[-1].outputs[0]
        value.name, value.shape, value.type = f"y{number}", ir.Shape([2, outputs]), ir.TensorType(ir.DataType.FLOAT)
    opsets = {"": 20, "com.microsoft": 1}
    graph = ir.Graph([first], [value], nodes=nodes, initializers=initializers, opset_imports=opsets, name="language")
    (directory / WEIGHTS).write_bytes(content)
    return ir.Model(graph, ir_version=10), places, matrices


def run(path, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("bits", [8, 4])
def test_same_products(tmp_path, bits):
    model, places, matrices = two_products(tmp_path, bits)
    x = np.random.default_rng(1).standard_normal((2, WIDTHS[0]), np.float32)
    ir.save(model, tmp_path / LANGUAGE)
    expected = run(tmp_path / LANGUAGE, x)
    unpack_products(model, places)
    assert [node.op_type for node in model.graph] == ["FusedMatMul"] * 2
    assert len(model.graph.initializers) == 2  # nothing of the blocks is left
    (tmp_path / UNPACKED).write_bytes(b"".join(matrix.tobytes() for matrix in matrices))
    ir.save(model, tmp_path / LANGUAGE_UNPACKED)
    np.testing.assert_allclose(run(tmp_path / LANGUAGE_UNPACKED, x), expected, rtol=1e-4, atol=1e-3)


def test_shipped_graph(tmp_path):
    for name in (LANGUAGE, MANIFEST):
        shutil.copyfile(SHIPPED / name, tmp_path / name)
    write_unpacked(tmp_path)
    same = (tmp_path / LANGUAGE_UNPACKED).read_bytes() == (SHIPPED / LANGUAGE_UNPACKED).read_bytes()
    assert same, f"{LANGUAGE} changed: run pixellm.graphs.browser.write_unpacked on the directory of the shipped graphs"
