"""Manifest of an exported model: what the graphs read, and where each of their tensors lies in the weights file.

A directory holds `manifest.json`, the graphs `encode.onnx`, `language.onnx` and `masks.onnx` (of a model that corrects
masks `refine.onnx`, too), their weights in one file, and the processor's settings with the tokenizer.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

VERSION = 1
MANIFEST, WEIGHTS = "manifest.json", "weights.bin"
ENCODE, LANGUAGE, MASKS, REFINE = "encode.onnx", "language.onnx", "masks.onnx", "refine.onnx"
# Of quantised models, for the browser: its matrices lie in a file of fp32 that the page makes (graphs/browser.py).
LANGUAGE_UNPACKED, UNPACKED = "language.unpacked.onnx", "unpacked.bin"
GRAPHS = (ENCODE, LANGUAGE, MASKS)  # of every model
ALIGNMENT = 4096  # bytes; onnxruntime maps tensors that begin at a page

Kind = Literal["plain", "float16", "blocks8", "scales8", "blocks4", "scales4"]
Precision = Literal["float32", "int8", "int4"]


@dataclass(frozen=True)
class TensorPlace:
    """A tensor of the weights file.

    Args:
        source: its key in the checkpoint.
        kind: how it is stored: as it is, in fp16, or as blocks of integers and the scales of these.
        shape: as stored.
        dtype: NumPy's name, as stored.
        offset: in bytes.
    """

    source: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def nbytes(self) -> int:
        import numpy as np  # slow, and `pixellm --help` imports this module

        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Manifest:
    """Description of an exported model.

    Args:
        precision: of the language model's matrices.
        image_tensors: names of what `encode.onnx` gives, in its order; `masks.onnx` reads those in `mask_inputs`.
        mask_inputs: names.
        has_presence: `masks.onnx` gives a presence score, too.
        lookback: number of earlier ids that a step reads.
        codebook_ids: the ids of one group.
        own_state: a group's states are those of its own tokens, not of the tokens before them.
        num_layers, num_heads, head_dim: of the keys and values.
        width: of the language model.
        max_positions: of the language model.
        peak_share: see `pixellm.imaging.postprocess.binarize`.
        default_sampling: fields of `Sampling` where the caller gives none.
        parameters: number of weights.
        tensors: of the weights file.
        refine_inputs: names of the maps that `refine.onnx` reads; none: there is no such graph.
    """

    precision: Precision
    image_tensors: list[str]
    mask_inputs: list[str]
    has_presence: bool
    lookback: int
    codebook_ids: list[int]
    own_state: bool
    num_layers: int
    num_heads: int
    head_dim: int
    width: int
    max_positions: int
    peak_share: float | None
    default_sampling: dict[str, Any]
    parameters: int
    tensors: list[TensorPlace] = field(default_factory=list)
    refine_inputs: list[str] = field(default_factory=list)
    version: int = VERSION

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest.

        Raises:
            ValueError: it is malformed, or of another version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values["version"]
            if version == VERSION:
                tensors = [TensorPlace(**{**row, "shape": tuple(row["shape"])}) for row in values.pop("tensors")]
                return cls(**values, tensors=tensors)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"expected the manifest of an exported model in {path}, got ({error}). Export again."
            ) from None
        raise ValueError(f"expected version {VERSION} of {path}, got {version!r}. Export the model again.")
