"""The memory plan: what it counts, what it advises, and the refusal to load what can't fit."""

import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModel

from pixellm import cli
from pixellm.cost import memory
from pixellm.cost.breakdown import Scenario
from pixellm.cost.counting import kv_cache_bytes, weight_bytes
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.memory import BatchScenario, LoadOptions, part_bytes, plan_memory
from pixellm.hub.presets import PRESETS
from pixellm.segmenter import load
from tests.support import tiny

BF16 = LoadOptions(torch.bfloat16)
KV, IMAGE = "KV cache", "image and masks"
SHORT = Scenario(prompt_tokens=9, answer_tokens=5, targets=2, system_tokens=4)


def tiny_system() -> LanguageCostModel:
    return LanguageCostModel("tiny", tiny.clip_config())


@pytest.mark.parametrize("name", ["pixellm-7b", "pixellm-mini"])
def test_weights_are_those_of_the_model(name):
    """Of the 7b without any memory; `test_quantization.py` compares with models that are really loaded."""
    system = LanguageCostModel(name, PRESETS[name]())
    with torch.device("meta"):
        model = AutoModel.from_config(system.config)
    elements = sum(parameter.numel() for parameter in model.parameters())
    assert sum(part_bytes(system, LoadOptions()).values()) == 4 * elements
    known = weight_bytes(model, model.language_model)
    assert sum(part_bytes(system, BF16).values()) == 2 * elements == known["bf16"]
    for quantize in ("int8", "int4"):
        assert sum(part_bytes(system, replace(BF16, quantize=quantize)).values()) == known[quantize]


def test_what_is_kept_grows_with_what_is_asked():
    system, use = tiny_system(), BatchScenario(1, SHORT, (30, 40))
    one = plan_memory(system, BF16, use, available=0)
    prefix, length = system.image_tokens + 4, system.image_tokens + 9 + 5 + 2 * 6
    per_token = kv_cache_bytes(system.config.text_config, 1)
    assert one.needs[KV] == (prefix + length) * per_token
    assert one.needs[IMAGE] == 3 * 30 * 40 + 2 * memory.MASK_COLUMN_BYTES * 40
    three = plan_memory(system, BF16, replace(use, questions=3), available=0)
    assert three.needs[KV] == (prefix + 3 * length) * per_token
    assert three.needs[IMAGE] == 3 * 30 * 40 + 3 * 2 * memory.MASK_COLUMN_BYTES * 40
    exact = plan_memory(system, LoadOptions(), use, available=0)
    assert exact.needs[KV] == 2 * one.needs[KV]
    assert exact.total > one.total
    none = plan_memory(system, BF16, replace(use, scenario=replace(SHORT, targets=0)), available=0)
    assert none.needs["mask decoding"] == 0


def test_many_questions_may_be_the_busiest_part():
    system = tiny_system()
    few, many = (plan_memory(system, BF16, BatchScenario(n, SHORT), available=0).needs for n in (1, 500))
    assert any("vision" in name for name in few if name.startswith("activations"))
    assert any("prefill" in name for name in many if name.startswith("activations"))


def test_it_fits_to_the_byte():
    needed = plan_memory(tiny_system(), BF16, BatchScenario(1, SHORT), available=0).total
    assert plan_memory(tiny_system(), BF16, BatchScenario(1, SHORT), available=needed).fits
    assert not plan_memory(tiny_system(), BF16, BatchScenario(1, SHORT), available=needed - 1).fits


def test_a_gpu_holds_neither_the_process_nor_the_masks():
    on_cpu, on_gpu = (
        plan_memory(tiny_system(), replace(BF16, device=device), BatchScenario(1, SHORT), 0)
        for device in ("cpu", "cuda")
    )
    assert on_cpu.needs.keys() - on_gpu.needs.keys() == {IMAGE, "process"}


def test_what_is_smaller():
    assert [way.flags for way in LoadOptions().smaller] == [
        "--dtype bfloat16",
        "--dtype bfloat16 --quantize int8",
        "--dtype bfloat16 --quantize int4",
    ]
    assert [str(way) for way in LoadOptions(torch.bfloat16, "int8").smaller] == ["int4 and bfloat16"]
    assert not LoadOptions(torch.bfloat16, "int4").smaller


# The command


@pytest.fixture
def pixellm(monkeypatch, capsys):
    """Run `pixellm ARGUMENTS` on a computer with so many GB: exit code, what it printed, and what it complained of."""

    def run(gigabytes: float, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(memory, "available_memory", lambda _: int(gigabytes * 1e9))
        monkeypatch.setattr(sys, "argv", ["pixellm", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return run


def test_command(pixellm):
    code, printed, complaint = pixellm(24, "models", "plan", "pixellm-7b", "--device", "cpu", "--dtype", "bfloat16")
    assert (code, complaint) == (0, "")
    assert "fits: 24.0 GB available" in printed
    assert "weights, language model" in printed
    code, printed, complaint = pixellm(14, "models", "plan", "pixellm-7b", "--device", "cpu")
    assert (code, complaint) == (1, "")
    last = [line.rpartition(", ")[2] for line in printed.splitlines()[-3:]]
    assert last == ["does not fit", "fits", "fits"]  # bfloat16, int8, int4
    assert "does not fit: 14.0 GB available" in printed


def test_more_is_asked(pixellm):
    more = [
        "--questions",
        "16",
        "--targets",
        "10",
        "--tokens",
        "100",
        "--image-hw",
        "3000",
        "4000",
        "--quantize",
        "int4",
    ]
    code, printed, _ = pixellm(9, "models", "plan", "pixellm-7b", "--device", "cpu", "--dtype", "bfloat16", *more)
    assert code == 1
    assert printed.splitlines()[-1] == "does not fit: 9.00 GB available"


@pytest.mark.parametrize("arguments", [["gpt"], ["seem-mini"], ["pixellm-7b", "--image-hw", "0", "4"]])
def test_mistakes(pixellm, arguments):
    code, printed, complaint = pixellm(9, "models", "plan", *arguments)
    assert (code, printed) == (2, "")
    assert "Error" in complaint


# Loading


@pytest.fixture
def directory(tmp_path, clip_model, clip_processor):
    clip_model.save_pretrained(tmp_path)
    clip_processor.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("share", "quantize", "advice"),
    [
        (0.99, None, r"Load it in bfloat16 \(\d+ kB\) or int8 and bfloat16 \(\d+ kB\) or int4"),
        (0.49, None, r"Load it in int8 and bfloat16 \(\d+ kB\) or int4 and bfloat16 \(\d+ kB\)\."),
        (0.01, None, "Free some, or take another computer."),
        (0.01, "int4", "Free some, or take another computer."),
    ],
)
def test_what_cannot_fit_is_not_loaded(directory, clip_model, monkeypatch, share, quantize, advice):
    size = sum(parameter.nbytes for parameter in clip_model.parameters())
    monkeypatch.setattr(memory, "available_memory", lambda _: int(share * size))
    monkeypatch.setattr("pixellm.segmenter.AutoModel.from_pretrained", lambda *_, **__: pytest.fail("it is loaded"))
    with pytest.raises(ValueError, match=advice) as refusal:
        load(directory, quantize=quantize)
    assert "\n" not in str(refusal.value)


def test_what_just_fits_is_loaded(directory, clip_model, monkeypatch):
    size = sum(parameter.nbytes for parameter in clip_model.parameters())
    monkeypatch.setattr(memory, "available_memory", lambda _: size)
    assert load(directory).model.dtype == torch.float32


def test_the_command_says_so_in_one_line(directory, pixellm):
    code, printed, complaint = pixellm(1e-5, "ask", "example:cat", "Segment the cat.", "--model", str(directory))
    assert (code, printed) == (2, "")
    assert complaint.startswith("Error: expected ")
    assert complaint.count("\n") == 1
