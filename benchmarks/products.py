"""The matrix products of a computation alone: below what they take, nothing of it can be made quicker."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class Products(TorchDispatchMode):
    """Notes the matrix products and convolutions of what runs in it, to make them again, and nothing else.

    Weights stay themselves, so that each is read from memory as often as it was. All other operands are random numbers
    of the same shapes, shared where shapes are the same.
    """

    KINDS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product")

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self._pool: dict[tuple, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name.startswith(self.KINDS):
            kept, named = tree_map(self._stand_in, (args, kwargs))
            self.calls.append(lambda: func(*kept, **named))
            return func(*args, **kwargs)
        with self:  # in inference mode operators come whole, with their products inside
            parts = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if parts is NotImplemented else parts

    def _stand_in(self, value: object) -> object:
        if not isinstance(value, Tensor) or value.untyped_storage().data_ptr() in self._weights:
            return value
        key = (value.dtype, value.shape, value.stride())
        if key not in self._pool:
            extent = 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
            numbers = torch.randn(max(1, extent), device=value.device).to(value.dtype)
            self._pool[key] = torch.as_strided(numbers, value.shape, value.stride())
        return self._pool[key]

    @torch.no_grad()
    def replay(self) -> None:
        for call in self.calls:
            call()
