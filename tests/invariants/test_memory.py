"""Weights are in memory once: while they are loaded, in whatever precision, and while they are saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, LlamaConfig

from pixellm.inference.quantization import load_quantised
from pixellm.model import PixelLMForConditionalGeneration
from pixellm.utils.weights import mapped_weights, read_weights, save_state
from tests.support import tiny

CLEAR = Path("/proc/self/clear_refs")
SHARE = 1.15  # of the weights
pytestmark = pytest.mark.skipif(not CLEAR.exists(), reason="peak memory is read from Linux' /proc")


@dataclass
class Peak:
    """Bytes above what there was before."""

    bytes: int = 0


@contextmanager
def peak() -> Iterator[Peak]:
    """Follows what this process has in memory at most, by the operating system."""
    found = Peak()
    CLEAR.write_text("5")
    before = status("VmRSS")
    yield found
    found.bytes = status("VmHWM") - before


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def size(model: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def random_model(**sizes: int) -> PixelLMForConditionalGeneration:
    """The tiny model with a language model of these sizes."""
    settings = tiny.clip_config()
    vocabulary = settings.text_config.vocab_size
    settings.text_config = LlamaConfig(vocab_size=vocabulary, num_attention_heads=8, **sizes)
    return PixelLMForConditionalGeneration(settings)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def checkpoint(request, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("weights")
    model = random_model(hidden_size=640, intermediate_size=1792, num_hidden_layers=10).to(request.param)
    with peak() as found:
        model.save_pretrained(directory, max_shard_size="30MB")
    assert found.bytes <= (SHARE - 1) * size(model)
    assert len(list(directory.glob("*.safetensors"))) > 3
    return directory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loading(checkpoint, dtype):
    AutoModel.from_pretrained(checkpoint, dtype=dtype)  # whatever is imported by then
    with peak() as found:
        model = AutoModel.from_pretrained(checkpoint, dtype=dtype)
        read = [parameter.sum() for parameter in model.parameters()]  # what is mapped, too
    assert len(read) > 100
    assert found.bytes <= SHARE * size(model)


def test_pages_of_weights_that_are_converted_after_loading_do_not_stay(checkpoint):
    """A training loads weights as they are stored, and then converts a part of them."""
    model = AutoModel.from_pretrained(checkpoint, dtype="auto")
    whole = size(model)
    model.language_model.to(torch.float16)
    assert 0 < size(model.language_model) < whole
    assert mapped_bytes(checkpoint) < 0.5 * whole


def mapped_bytes(directory: Path) -> int:
    """Bytes of a directory's files that are in memory as pages of this process."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, value, *_ = line.split()
        if not name.endswith(":"):
            inside = str(directory) in line
        elif inside and name == "Rss:":
            found += int(value) << 10
    return found


@pytest.mark.parametrize(("quantize", "share"), [("int8", 0.75), ("int4", 0.5)])
def test_quantised_weights_take_less(tmp_path, quantize, share):
    """Half and a quarter of bf16, and what Python needs beside; nothing is left of how they were made."""
    model = random_model(hidden_size=1024, intermediate_size=2816, num_hidden_layers=12).to(torch.bfloat16)
    full = size(model)
    model.save_pretrained(tmp_path, max_shard_size="100MB")
    del model
    config = AutoConfig.from_pretrained(tmp_path)
    load_quantised(tmp_path, config, quantize, torch.device("cpu"), torch.bfloat16)  # whatever is imported by then
    before = status("VmRSS")
    model = load_quantised(tmp_path, config, quantize, torch.device("cpu"), torch.bfloat16)
    read = [parameter.sum() for parameter in model.parameters()]  # what is mapped, too
    assert len(read) > 100
    assert status("VmRSS") - before <= share * full


def test_our_own_writer(checkpoint, tmp_path):
    with peak() as found:
        state = read_weights(checkpoint)
        save_state(state, tmp_path)
    weights = sum(tensor.nbytes for tensor in state.values())
    assert found.bytes <= SHARE * weights
    written = mapped_weights(tmp_path)
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key][...], tensor) for key, tensor in state.items())


def test_weights_that_share_memory_are_written_apart(tmp_path):
    whole = torch.arange(24.0).view(4, 6)
    state = {"whole": whole, "again": whole, "rows": whole[1:3], "turned": whole.T, "other": torch.ones(2)}
    save_state(state, tmp_path)
    assert all(torch.equal(read_weights(tmp_path)[key], tensor) for key, tensor in state.items())
