"""Sessions of onnxruntime: the three graphs of a model.

Shapes:  R rows · W ids of a step · P keys so far · D LLM width
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pixellm.runtime.manifest import GRAPHS, MANIFEST, Manifest

ERRORS_ONLY = 3


@dataclass
class Cache:
    """Keys and values of all layers, each (R, heads, P, width of one), where onnxruntime keeps them."""

    values: list[onnxruntime.OrtValue]

    def rows(self, index: Sequence[int] | np.ndarray, columns: np.ndarray | None = None) -> "Cache":
        """Return rows, and only `columns`, bool (P,), of them."""
        at = slice(None) if columns is None else columns
        return Cache(
            [
                onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(v.numpy()[index][:, :, at]))
                for v in self.values
            ]
        )

    @classmethod
    def joined(cls, caches: Sequence["Cache"], width: int) -> "Cache":
        """Put rows below each other, padded to `width` keys."""
        joined = []
        for values in zip(*(cache.values for cache in caches), strict=True):
            padded = [np.pad(a, ((0, 0), (0, 0), (0, width - a.shape[2]), (0, 0))) for a in (v.numpy() for v in values)]
            joined.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.concatenate(padded)))
        return cls(joined)


class Graphs:
    """The graphs of an exported model.

    Args:
        directory: what `pixellm.graphs.export` wrote.
        threads: of each graph; 0: one for each core.

    Raises:
        ValueError: files are missing or damaged.
    """

    def __init__(self, directory: Path, threads: int = 0) -> None:
        self.manifest = Manifest.read(directory / MANIFEST)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = ERRORS_ONLY

        def open_graph(name: str) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(directory / name, options, providers=["CPUExecutionProvider"])

        try:
            with ThreadPoolExecutor(len(GRAPHS)) as pool:  # onnxruntime optimises each graph on one core
                self._encode, self._language, self._masks = pool.map(open_graph, GRAPHS)
        except Exception as error:  # onnxruntime has a class of its own for each status
            raise ValueError(
                f"expected the graphs of an exported model in {directory}, got ({error}). Export again."
            ) from None
        numbers = range(2 * self.manifest.num_layers)
        self._past, present = [f"past.{i}" for i in numbers], [f"present.{i}" for i in numbers]
        self._results = ["logits", "codebook", *present]
        self._reads = {value.name for value in self._language.get_inputs()}

    def encode(self, pixel_values: np.ndarray, resized_hw: np.ndarray) -> dict[str, np.ndarray]:
        """Return the tensors of an image by name, of fp32 pixels (1, 3, S, S) and their int64 size (1, 2)."""
        results: list[Any] = list(self._encode.run(None, {"pixel_values": pixel_values, "resized_hw": resized_hw}))
        return {"resized_hw": resized_hw, **dict(zip(self.manifest.image_tensors, results, strict=True))}

    def masks(self, states: np.ndarray, image: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float | None]:
        """Return the logits (2g, 2g) of a group's states (G, D), and its presence score where the model has one."""
        results = self._masks.run(None, {"states": states, **{name: image[name] for name in self.manifest.mask_inputs}})
        return results[0][0], float(results[1][0]) if self.manifest.has_presence else None

    def step(self, inputs: Mapping[str, np.ndarray], cache: Cache) -> tuple[np.ndarray, np.ndarray, Cache]:
        """Run the language model.

        Returns:
            logits (R, V), what the codebook reads (R, W, D), and the keys and values with those of this step.
        """
        feeds: dict[str, Any] = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(value)
            for name, value in inputs.items()
            if name in self._reads
        }
        feeds |= zip(self._past, cache.values, strict=True)
        logits, codebook, *present = self._language.run_with_ort_values(self._results, feeds)
        return logits.numpy(), codebook.numpy(), Cache(present)

    def empty_cache(self, rows: int) -> Cache:
        shape = (rows, self.manifest.num_heads, 0, self.manifest.head_dim)
        empty = [np.zeros(shape, np.float32) for _ in self._past]
        return Cache([onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in empty])
