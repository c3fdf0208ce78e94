"""pixellm-mini without torch: its weights are those of the assembled model, and so are its masks."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

from pixellm.hub.models import materialise_mini, resolve_graphs
from pixellm.loading import load_graphs
from pixellm.mini.parts import fetch_gguf
from pixellm.predictor import Predictor
from pixellm.runtime.manifest import MANIFEST, WEIGHTS, Manifest
from pixellm.runtime.mini import weight_reader
from pixellm.segmenter import load
from pixellm.types import Target

STEP = 2.0**-10  # of fp16, relative
QUESTION = "Segment the cat."


@pytest.fixture(scope="module")
def torch_mini() -> Predictor:
    return load("pixellm-mini")


@pytest.fixture(scope="module")
def read():
    return weight_reader(fetch_gguf())


def test_weights(read):
    assembled = safe_open(materialise_mini() / "model.safetensors", "np")
    sources = {place.source for place in Manifest.read(resolve_graphs("pixellm-mini") / MANIFEST).tensors}
    checked = 0
    for key in sorted(sources & set(assembled.keys())):
        ours, theirs = read(key), assembled.get_tensor(key).astype(np.float32)
        # Products of adapters are summed in another order, which may change the last bit.
        np.testing.assert_allclose(ours, theirs, rtol=STEP, atol=1e-7, err_msg=key)
        checked += 1
    assert checked > 500


def test_plain_tensors_are_in_the_file(read):
    directory = resolve_graphs("pixellm-mini")
    content = np.memmap(directory / WEIGHTS, mode="r")
    for place in Manifest.read(directory / MANIFEST).tensors:
        if place.kind == "plain" and "norm" in place.source:
            count = int(np.prod(place.shape)) * np.dtype(place.dtype).itemsize
            stored = np.frombuffer(content[place.offset : place.offset + count], place.dtype).reshape(place.shape)
            np.testing.assert_array_equal(stored, read(place.source))


def test_answer(torch_mini):
    expected, got = torch_mini("example:cat", QUESTION), load_graphs("pixellm-mini")("example:cat", QUESTION)
    assert (got.text, got.token_ids) == (expected.text, expected.token_ids)
    (ours,), (theirs,) = got.targets, expected.targets
    assert (ours.mask & theirs.mask).sum() / (ours.mask | theirs.mask).sum() >= 0.99  # its language model is in int8
    assert ours.presence == pytest.approx(theirs.presence, abs=0.01)


def test_corrections(torch_mini):
    pair = torch_mini, load_graphs("pixellm-mini")
    for asked in pair:
        asked.set_image("example:cat")
    mask = np.zeros((300, 451), dtype=bool)
    mask[60:200, 100:300] = True
    targets = [Target.of_mask("The cat", (0, 7), mask, 0.5)] * 2
    for marks in ({"points": [(60, 200, 1)]}, {"points": [(20, 20, 0)]}, {"box": (100, 60, 250, 200)}):
        targets = [asked.refine(target, **marks) for asked, target in zip(pair, targets, strict=True)]
        theirs, ours = (target.mask for target in targets)
        assert (ours & theirs).sum() >= 0.999 * (ours | theirs).sum()
        assert targets[1].score == pytest.approx(targets[0].score, abs=1e-4)


def test_nothing_of_torch_is_imported(tmp_path):
    script = (
        "import sys\n"
        "from pixellm.cli import main\n"
        "sys.argv = ['pixellm', 'ask', 'example:cat', 'Segment the cat.', '--runtime', 'onnx', '--json', 'a.json']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'transformers', 'timm', 'scipy', 'skimage', 'matplotlib', 'cv2'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    answer = json.loads((tmp_path / "a.json").read_text())
    assert [target["phrase"] for target in answer["targets"]] == ["The cat"]
