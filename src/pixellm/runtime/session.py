"""Sessions of onnxruntime: the graphs of a model.

Shapes:  R rows · W ids of a step · P keys so far · D LLM width
"""

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pixellm.imaging.prompt_region import PromptedRegion
from pixellm.runtime.manifest import ENCODE, GRAPHS, LANGUAGE, MANIFEST, MASKS, REFINE, Manifest
from pixellm.runtime.optimised import optimised_path

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
        threads: of each graph; 0: OMP_NUM_THREADS, as torch reads it, or one for each core.
        wait: until all graphs are open. False: each is waited for where it is used, and errors are raised there.

    Raises:
        ValueError: files are missing or damaged.
    """

    def __init__(self, directory: Path, threads: int = 0, wait: bool = True) -> None:
        self.directory, self.manifest = directory, Manifest.read(directory / MANIFEST)
        self._threads = threads or _cores()
        # onnxruntime opens each graph on one core. On two cores the encoder, which is used first, is open before the
        # masks' graph is begun.
        pool = ThreadPoolExecutor(max(2, min(len(GRAPHS), self._threads)))
        self._sessions = {name: pool.submit(self._open, name) for name in GRAPHS}
        pool.shutdown(wait=wait)
        numbers = range(2 * self.manifest.num_layers)
        self._past, present = [f"past.{i}" for i in numbers], [f"present.{i}" for i in numbers]
        self._results = ["logits", "codebook", *present]
        if wait:
            for name in GRAPHS:
                self._session(name)

    def _open(self, name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = ERRORS_ONLY
        options.enable_cpu_mem_arena = False  # it keeps the largest activations of each graph, and saves no time
        if name == LANGUAGE:  # optimised when it was exported
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        path = optimised_path(self.directory, name)  # exports of earlier versions have none
        path = path if path.is_file() else self.directory / name
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def _session(self, name: str) -> onnxruntime.InferenceSession:
        try:
            opened = self._sessions.get(name)
            return opened.result() if opened else self._open(name)
        except Exception as error:  # onnxruntime has a class of its own for each status
            raise ValueError(
                f"expected the graphs of an exported model in {self.directory}, got ({error}). Export again."
            ) from None

    def encode(self, pixel_values: np.ndarray, resized_hw: np.ndarray) -> dict[str, np.ndarray]:
        """Return the tensors of an image by name, of fp32 pixels (1, 3, S, S) and their int64 size (1, 2)."""
        results: list[Any] = list(
            self._session(ENCODE).run(None, {"pixel_values": pixel_values, "resized_hw": resized_hw})
        )
        return {"resized_hw": resized_hw, **dict(zip(self.manifest.image_tensors, results, strict=True))}

    def masks(self, states: np.ndarray, image: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float | None]:
        """Return the logits (2g, 2g) of a group's states (G, D), and its presence score where the model has one."""
        results = self._session(MASKS).run(
            None, {"states": states, **{name: image[name] for name in self.manifest.mask_inputs}}
        )
        return results[0][0], float(results[1][0]) if self.manifest.has_presence else None

    @cached_property
    def _refine(self) -> onnxruntime.InferenceSession:
        """Most processes correct nothing: the graph is opened for the first correction."""
        return self._session(REFINE)

    def refine(self, region: PromptedRegion, maps: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logits (r, r) of a region's new mask; `maps` (c, h, w) are those of `refine_inputs`, cropped."""
        feeds = {"dense": region.dense[None], "points": region.points[None], "labels": region.labels[None]}
        feeds |= {"boxes": region.boxes}
        feeds |= {name: map_[None] for name, map_ in zip(self.manifest.refine_inputs, maps, strict=True)}
        results: list[Any] = list(self._refine.run(None, feeds))
        return results[0]

    @cached_property
    def _reads(self) -> set[str]:
        """Inputs of the language model's graph: a variant may leave some out."""
        return {value.name for value in self._session(LANGUAGE).get_inputs()}

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
        logits, codebook, *present = self._session(LANGUAGE).run_with_ort_values(self._results, feeds)
        return logits.numpy(), codebook.numpy(), Cache(present)

    def empty_cache(self, rows: int) -> Cache:
        shape = (rows, self.manifest.num_heads, 0, self.manifest.head_dim)
        empty = [np.zeros(shape, np.float32) for _ in self._past]
        return Cache([onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in empty])


def _cores() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
