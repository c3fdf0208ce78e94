"""Operators that torch.onnx does not translate yet, as compositions of those of ONNX."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18 as op


def translations() -> dict[Any, Callable[..., Any]]:
    """Return the `custom_translation_table` of torch.onnx.export."""
    return {torch.ops.aten.adaptive_max_pool2d.default: _adaptive_max_pool2d}


def _adaptive_max_pool2d(maps: Any, output_size: Sequence[int]) -> tuple[Any, Any]:
    """Maxima of windows that may overlap, first down the rows, then along the columns; indices are not given."""
    sides = maps.shape[2:]
    for axis, side, count in zip((2, 3), sides, output_size, strict=True):
        parts = [
            op.ReduceMax(
                op.Slice(
                    maps,
                    op.Constant(value_ints=[side * i // count]),
                    op.Constant(value_ints=[math.ceil(side * (i + 1) / count)]),
                    op.Constant(value_ints=[axis]),
                ),
                op.Constant(value_ints=[axis]),
                keepdims=1,
            )
            for i in range(count)
        ]
        maps = op.Concat(*parts, axis=axis)
    return maps, op.Constant(value_int=0)
