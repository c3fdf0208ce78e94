"""Costs: what is counted against formulas, published sizes, real decoding and hand-made cases."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from pixellm import cli
from pixellm.checkpoints.presets import PixelLMVisionConfig
from pixellm.cost import report
from pixellm.cost.breakdown import Component, Scenario
from pixellm.cost.counting import kv_cache_bytes, measure, parameters, weight_bytes
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.models import (
    ASK_TOKENS,
    REPLY_TOKENS,
    ByPhraseCostModel,
    open_cost_model,
    open_cost_models,
)
from pixellm.cost.seem import SeemCostModel
from pixellm.inference.generation import Sampling, encode_prefix, generate
from tests.support import tiny
from tests.support.costs import SHORT, system, tiny_system

# How costs grow


@pytest.mark.slow
def test_any_pass_follows_from_two() -> None:
    one = system("pixellm-7b")
    for tokens, context in ((1, 330), (6, 330), (1, 2000), (700, 0)):
        assert one.layers.flops(tokens, context) == pytest.approx(one.count_layers(tokens, context), rel=1e-9)


def test_a_decoding_step_grows_linearly_with_the_context() -> None:
    costs = [system("pixellm-7b").count_layers(1, context) for context in (100, 400, 700)]
    assert costs[2] - costs[1] == costs[1] - costs[0] == 300 * 4 * 32 * 4096


def test_masks_cost_the_same_each() -> None:
    one = tiny_system()
    assert one.mask_head.flops(5) == measure_masks(one, 5)
    mini = system("pixellm-mini")  # with a prior of names
    assert mini.mask_head.flops(3) == measure_masks(mini, 3)


def measure_masks(one: LanguageCostModel, targets: int) -> int:
    return one._decode_masks(targets).flops


def test_the_answer_keeps_its_lengths() -> None:
    steps = list(Scenario(answer_tokens=7, targets=3).steps(group=6))
    assert [tokens for is_mask, tokens in steps if is_mask] == [6, 6, 6]
    assert sum(tokens for is_mask, tokens in steps if not is_mask) == 7
    assert steps[-1] == (True, 6)
    assert list(Scenario(answer_tokens=2, targets=0).steps(6)) == [(False, 1)] * 2


# Breakdown = what decoding does


def test_breakdown_of_real_decoding(clip_model, clip_processor, monkeypatch) -> None:
    """The production decoding, on real numbers with unfused attention, costs what the breakdown says."""
    for module in (clip_model.language_model, clip_model.vision_encoder.clip):
        monkeypatch.setattr(module.config, "_attn_implementation", "eager")
    question, answer = "Where is the dog?", "Sure, it is the dog {seg}. The cat {seg}"
    write = tiny.Write(clip_processor, {question: tiny.plan_of(clip_processor, answer)})
    inputs = clip_processor.images([tiny.picture(80, 60)])
    prompt = clip_processor.prompt_ids(question)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        prefix = encode_prefix(clip_model, inputs["pixel_values"], inputs["resized_hw"], clip_processor.prefix_ids)
        sampling = Sampling(processors=(write,))
        steps = list(generate(clip_model, prefix, [0], [prompt], clip_processor.eos_ids, sampling))
        for step in steps:
            if step.states is not None:
                clip_model.decode_masks(prefix.images, step.states, torch.tensor([0]))
    targets = sum(step.states is not None for step in steps)
    text = sum(len(step.ids) for step in steps if step.states is None)
    system_tokens = len(prefix.text_ids)
    scenario = Scenario(system_tokens + len(prompt), text, targets, system_tokens=system_tokens)
    expected = tiny_system().breakdown(scenario).flops
    # Here each mask is decoded when it is there, so what is computed for each call comes twice.
    expected += (targets - 1) * tiny_system().mask_head.per_call
    assert targets == 2
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-9)


def test_released_decoding_reads_everything_again() -> None:
    one = tiny_system()
    lines = {line.part: line for line in one.breakdown(replace(SHORT, cache=False)).lines}
    start, new = one.start(SHORT), SHORT.answer_tokens + one.group * SHORT.targets
    reread = sum(one.count_layers(length) + length * one.head for length in range(start, start + new + 1))
    spent = sum(lines[part].total for part in (Component.PREFILL, Component.TEXT, Component.GROUP))
    assert spent == pytest.approx(reread, rel=1e-9)
    assert lines[Component.VISION].calls == lines[Component.LLM_PROJECTOR].calls == new + 1
    assert lines[Component.DECODER_FEATURES].calls == 1


def test_by_phrase_is_a_text_answer_and_a_question_for_each() -> None:
    one, targets, text = tiny_system(), 2, 8
    scenario = replace(SHORT, answer_tokens=text, targets=targets)
    alone = one.breakdown(replace(scenario, targets=0)).flops
    prefix = one.image_tokens + scenario.system_tokens
    asked = prefix + ASK_TOKENS + text // targets
    reply = one.count_layers(ASK_TOKENS + text // targets, prefix) + one.head
    for position in range(REPLY_TOKENS):
        reply += one.step(1, asked + position)
    reply += one.step(one.group, asked + REPLY_TOKENS)
    expected = alone + targets * reply + one.mask_head.flops(targets)
    assert ByPhraseCostModel(one).breakdown(scenario).flops == pytest.approx(expected, rel=1e-9)


def test_seem_decodes_a_phrase_at_a_time() -> None:
    seem = SeemCostModel("tiny", tiny_seem())
    one, three = (seem.breakdown(Scenario(answer_tokens=4 * n, targets=n)) for n in (1, 3))
    images = seem._images
    ids = torch.zeros(3, 6, dtype=torch.long, device="meta")
    index = torch.zeros(3, dtype=torch.long, device="meta")
    counted = measure(lambda: seem.model.ground(images, ids, torch.ones_like(ids), index)).flops
    assert three.flops == counted + sum(line.total for line in three.lines[:2])
    assert one.lines[0] == three.lines[0]
    assert seem.memory(SHORT).kv_cache == 0


def tiny_seem():
    from transformers import CLIPTextConfig

    from pixellm.baselines.seem import SeemConfig

    vision = PixelLMVisionConfig(
        kind="timm", image_size=64, backbone="tf_efficientnet_lite0", reductions=(32, 16, 8, 4), hidden_size=0
    )
    text = CLIPTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return SeemConfig(
        vision, text, width=32, num_heads=4, ffn_dim=64, encoder_layers=1, decoder_layers=2, num_queries=5
    )


# Memory


def test_peak_of_a_chain() -> None:
    """Input, hidden, activated: the first two die when they are not needed any more."""
    chain = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8)).to("meta")
    measured = measure(lambda: chain(torch.empty(4, 16, device="meta")))
    assert measured.peak_bytes == 4 * 4 * (16 + 32 + 32)
    assert measured.flops == 2 * 4 * (16 * 32 + 32 * 8)
    long = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(50))).to("meta")
    assert measure(lambda: long(torch.empty(4, 16, device="meta"))).peak_bytes <= 3 * 4 * 4 * 16
    x = torch.empty(4, 16, device="meta")
    assert measure(lambda: x.view(-1)[3:].unflatten(0, (1, -1))).peak_bytes == 0  # views hold nothing


def test_weights() -> None:
    config = tiny.clip_config()
    model = tiny.build(config)
    found = weight_bytes(model, model.language_model)
    text = config.text_config
    width, inner, kv = text.hidden_size, text.intermediate_size, 16
    assert inner % 32  # so that down_proj, which reads it, is left as it is
    shapes = [(width, width)] * 2 + [(kv, width)] * 2 + [(inner, width)] * 2
    layers = [shape for shape in shapes for _ in range(text.num_hidden_layers)]
    count = sum(rows * columns for rows, columns in layers)
    assert found["bf16"] == 2 * parameters(model)
    assert found["bf16"] - found["int8"] == count - 2 * sum(rows for rows, _ in layers)
    # 32 inputs: one group for each row.
    assert found["bf16"] - found["int4"] == 1.5 * count - 4 * sum(rows for rows, _ in layers)


def test_keys_and_values() -> None:
    one, kept = tiny_system(), DynamicCache()
    with torch.inference_mode():
        one._hidden_states(11, 0, kept)
    held = sum(2 * layer.keys.numel() + 2 * layer.values.numel() for layer in kept.layers)
    assert kv_cache_bytes(one.config.text_config, 11) == held
    assert one.memory(SHORT).kv_cache == kv_cache_bytes(one.config.text_config, one.length(SHORT))
    assert one.memory(replace(SHORT, cache=False)).kv_cache == 0


@pytest.mark.parametrize(
    "name", ["pixellm-7b", pytest.param("lisa-7b", marks=pytest.mark.slow), "lisa-mini", "pixellm-mini"]
)
def test_no_parameter_is_left_out(name: str) -> None:
    assert system(name).breakdown(Scenario()).parameters == parameters(system(name).model)


# Names and scenarios


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pixellm-7b", "pixellm-7b"], "different"),
        (["pixellm-8b"], "pixellm-7b"),
        (["seem:rec"], "SEEM-style"),
    ],
)
def test_names_that_mean_nothing(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_cost_models(names)


def test_directories(tmp_path) -> None:
    tiny.clip_config().save_pretrained(tmp_path)
    opened = open_cost_model(str(tmp_path))
    assert opened.breakdown(SHORT).flops == tiny_system().breakdown(SHORT).flops


def test_impossible_scenarios() -> None:
    with pytest.raises(ValueError, match="system text"):
        Scenario(prompt_tokens=3)
    with pytest.raises(ValueError, match="0 or more"):
        Scenario(targets=-1)
    with pytest.raises(ValueError, match="no-cache"):
        ByPhraseCostModel(tiny_system()).breakdown(replace(SHORT, cache=False))
    assert tiny_system().breakdown(replace(SHORT, targets=0)).flops > 0


@pytest.mark.parametrize(
    ("value", "told"), [(5.961e12, "5.96 T"), (999.6e9, "1.00 T"), (13.4e9, "13.4 G"), (207, "207 "), (0, "0 ")]
)
def test_quantities(value: float, told: str) -> None:
    assert report.quantity(value) == told


# The command


@pytest.fixture
def pixellm(monkeypatch, capsys):
    """Run `pixellm cost ARGUMENTS`: exit code, what it printed, and what it complained of."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pixellm", "cost", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_command(pixellm, tmp_path) -> None:
    arguments = ["--against", "lisa-mini:rec", "--targets", "2", "--out", str(tmp_path)]
    code, printed, complaint = pixellm("pixellm-7b", *arguments)
    assert (code, complaint) == (0, "")
    assert Component.GROUP in printed  # in full, however narrow the screen
    written = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))
    first = written["systems"][0]
    assert [one["name"] for one in written["systems"]] == ["pixellm-7b", "lisa-mini:rec"]
    assert first["flops"] == 2 * first["macs"] == sum(part["total_flops"] for part in first["parts"])
    assert first["flops"] == system("pixellm-7b").breakdown(Scenario(answer_tokens=26, targets=2)).flops
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    assert "| pixellm-7b |" in (tmp_path / "cost.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [["gpt"], ["pixellm-7b", "--image-size", "450"], ["lisa-mini:rec", "--no-cache"]])
def test_mistakes_are_one_line(pixellm, arguments: list[str]) -> None:
    code, printed, complaint = pixellm(*arguments)
    assert (code, printed) == (2, "")
    assert complaint.startswith("Error: ")
