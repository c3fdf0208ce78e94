"""Language graph with unpacked matrices: it gives what that with blocks gives, and the shipped one is up to date."""

import shutil

import numpy as np
import onnxruntime

from pixellm.graphs.browser import write_unpacked
from pixellm.graphs.export import export
from pixellm.runtime.manifest import LANGUAGE, LANGUAGE_UNPACKED, MANIFEST, UNPACKED, WEIGHTS, Manifest, TensorPlace
from pixellm.runtime.mini import SHIPPED


def unpacked(content: bytes, place: TensorPlace, scales: TensorPlace) -> np.ndarray:
    """Return the fp32 matrix of a place with blocks of 8 or 4 bits, by definition."""
    values = np.frombuffer(content, np.uint8, int(np.prod(place.shape)), place.offset).reshape(place.shape)
    if place.kind == "blocks4":
        values = np.stack([values & 15, values >> 4], axis=-1).reshape(*place.shape[:2], -1)
    half = 128 if place.kind == "blocks8" else 8
    factors = np.frombuffer(content, np.float32, int(np.prod(scales.shape)), scales.offset).reshape(scales.shape)
    return ((values.astype(np.float32) - half) * factors[..., None]).reshape(len(values), -1)


def logits(directory, name: str, manifest: Manifest) -> np.ndarray:
    session = onnxruntime.InferenceSession(directory / name, providers=["CPUExecutionProvider"])
    ids = np.arange(5, 12)[None]
    past = np.zeros((1, manifest.num_heads, 0, manifest.head_dim), np.float32)
    inputs = {
        "input_ids": ids,
        "earlier_ids": np.full((1, manifest.lookback), 1),
        "image_tokens": np.zeros((1, 1, manifest.width), np.float32),
        "conditioning": np.zeros((1, session_width(session)), np.float32),
        "bias": np.where(np.tri(7, dtype=bool), np.float32(0), np.float32(-1e9))[None, None],
        "position_ids": np.arange(7)[None],
        "last": np.array([6]),
        **{f"past.{i}": past for i in range(2 * manifest.num_layers)},
    }
    read = {value.name for value in session.get_inputs()}
    return session.run(["logits"], {key: value for key, value in inputs.items() if key in read})[0][0]


def session_width(session: onnxruntime.InferenceSession) -> int:
    """Width of the conditioning that a graph reads, 1 where it reads none."""
    return next((int(value.shape[1]) for value in session.get_inputs() if value.name == "conditioning"), 1)


def test_same_logits(detector_model, timm_processor, tmp_path):
    export(detector_model, timm_processor, tmp_path, "int8")
    manifest = Manifest.read(tmp_path / MANIFEST)
    content = (tmp_path / WEIGHTS).read_bytes()
    scales = {place.source: place for place in manifest.tensors if place.kind.startswith("scales")}
    packed = [place for place in manifest.tensors if place.kind.startswith("blocks")]
    assert packed
    matrices = [unpacked(content, place, scales[place.source]) for place in packed]
    (tmp_path / UNPACKED).write_bytes(b"".join(matrix.tobytes() for matrix in matrices))
    expected, got = logits(tmp_path, LANGUAGE, manifest), logits(tmp_path, LANGUAGE_UNPACKED, manifest)
    # Products with blocks round their inputs to 8 bits, too.
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


def test_shipped_graph(tmp_path):
    for name in (LANGUAGE, MANIFEST):
        shutil.copyfile(SHIPPED / name, tmp_path / name)
    write_unpacked(tmp_path)
    same = (tmp_path / LANGUAGE_UNPACKED).read_bytes() == (SHIPPED / LANGUAGE_UNPACKED).read_bytes()
    assert same, (
        "language.onnx changed: run pixellm.graphs.browser.write_unpacked on the directory of the shipped graphs"
    )
