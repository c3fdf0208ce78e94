"""Blocks of integers: what is read back, and what onnxruntime computes from them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pixellm.runtime.manifest import TensorPlace
from pixellm.runtime.packing import BLOCK, packed, quantise, write_weights


def unpack(values: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    if bits == 4:
        values = np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:2], -1)
    return ((values.astype(np.float32) - (1 << (bits - 1))) * scales[..., None]).reshape(len(values), -1)


@pytest.mark.parametrize("bits", [8, 4])
def test_errors_are_below_a_step(bits):
    weight = np.random.default_rng(0).standard_normal((5, 3 * BLOCK), np.float32)
    weight[0, :BLOCK] = 0
    values, scales = quantise(weight, bits)
    error = np.abs(unpack(values, scales, bits) - weight).reshape(5, -1, BLOCK)
    # The values range from -2^(bits - 1) to 2^(bits - 1) - 1: a largest value of the other sign loses one step more.
    assert (error <= np.abs(scales)[..., None] * 1.0001).all()
    assert np.median(error) < np.median(np.abs(scales)) / 2
    assert not unpack(values, scales, bits)[0, :BLOCK].any()


@pytest.mark.parametrize("bits", [8, 4])
def test_onnxruntime_reads_them(bits):
    outputs, width = 6, 2 * BLOCK
    weight = np.random.default_rng(1).standard_normal((outputs, width), np.float32)
    values, scales = quantise(weight, bits)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "values", "scales"],
        ["y"],
        domain="com.microsoft",
        K=width,
        N=outputs,
        bits=bits,
        block_size=BLOCK,
    )
    tensors = [
        helper.make_tensor("values", TensorProto.UINT8, values.shape, values.tobytes(), raw=True),
        helper.make_tensor("scales", TensorProto.FLOAT, scales.shape, scales.tobytes(), raw=True),
    ]
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, side])
        for name, side in (("x", width), ("y", outputs))
    ]
    graph = helper.make_graph([node], "product", shapes[:1], shapes[1:], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    x = np.random.default_rng(2).standard_normal((2, width), np.float32)
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(y, x @ unpack(values, scales, bits).T, atol=2e-3, rtol=1e-3)


def test_file(tmp_path):
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([7], dtype=np.int64)}
    places = [TensorPlace("a", "float16", (2, 3), "float16", 0), TensorPlace("b", "plain", (1,), "int64", 4096)]
    write_weights(tmp_path / "w", places, weights.__getitem__)
    content = (tmp_path / "w").read_bytes()
    np.testing.assert_array_equal(np.frombuffer(content[:12], np.float16), np.arange(6))
    assert np.frombuffer(content[4096:], np.int64) == [7]
    (stored,) = packed(weights["a"], places[:1])
    assert stored.dtype == np.float16
