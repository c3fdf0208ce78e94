"""Costs: what is counted against formulas, published sizes, real decoding and hand-made cases."""

import json
import sys
from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, SamVisionConfig

from pixellm import cli
from pixellm.checkpoints.presets import CLIP_LARGE, PixelLMVisionConfig, pixellm_7b
from pixellm.cost import bill, claims, closed_form, growth, report
from pixellm.cost.by_phrase import ASK_TOKENS, REPLY_TOKENS, ByPhrase
from pixellm.cost.closed_form_seem import seem_closed_form
from pixellm.cost.counted import measure
from pixellm.cost.language import LanguageSystem
from pixellm.cost.memory import kv_cache_bytes, parameters, weight_bytes
from pixellm.cost.scenario import Scenario
from pixellm.cost.seem import SeemSystem
from pixellm.cost.systems import open_system, open_systems, with_image_size
from pixellm.hub.presets import PRESETS
from pixellm.inference.generation import Sampling, encode_prefix, generate
from tests.support import tiny

TERA = 1e12
SHORT = Scenario(prompt_tokens=9, answer_tokens=5, targets=2, system_tokens=4)


LANGUAGE_PRESETS = {name: preset for name, preset in PRESETS.items() if not name.startswith("seem")}


@cache
def system(name: str) -> LanguageSystem:
    opened = open_system(name)
    assert isinstance(opened, LanguageSystem)
    return opened


@cache
def tiny_system() -> LanguageSystem:
    return LanguageSystem("tiny", tiny.clip_config())


# Counted = closed form


@pytest.mark.parametrize("name", LANGUAGE_PRESETS)
def test_counts_are_those_of_the_formulas(name: str) -> None:
    counted, formula = system(name), closed_form.closed_form(system(name).config)
    found = {
        "vision": counted.vision,
        "sam": counted.sam and counted.sam.flops,
        "llm_projector": counted.llm_projector,
        "decoder_features": counted.decoder_features,
        "per_token": counted.reading.per_token,
        "per_pair": counted.reading.per_pair,
        "head": counted.head,
        "masks_per_call": counted.mask_head.per_call,
        "masks_per_target": counted.mask_head.per_target,
    }
    assert found.keys() == {field.name for field in fields(formula)}
    assert (formula.sam is None) == (not name.startswith("lisa-1") and name != "lisa-7b")
    assert (formula.vision is None) == name.endswith("mini")  # EfficientNet has no formula
    for part, expected in vars(formula).items():
        if expected is not None:
            assert found[part] == pytest.approx(expected, rel=0.01), part


@pytest.mark.parametrize("config", [tiny.clip_config(), tiny.timm_config(), tiny.clip_config(tokens_per_scale=3)])
def test_other_configurations_too(config) -> None:
    counted, formula = LanguageSystem("tiny", config), closed_form.closed_form(config)
    assert counted.decoder_features == pytest.approx(formula.decoder_features, rel=0.01)
    assert counted.mask_head.per_target == pytest.approx(formula.masks_per_target, rel=0.01)
    assert counted.reading.per_pair == pytest.approx(formula.per_pair, rel=0.01)


@pytest.mark.parametrize("name", ["seem-focal-large", "seem-focal-tiny"])
def test_seem_counts_are_those_of_the_formulas(name: str) -> None:
    counted, tokens = open_system(name), 15
    assert isinstance(counted, SeemSystem)
    first = 192 if name.endswith("large") else 96
    formula = seem_closed_form(counted.config, [8 * first, 4 * first, 2 * first, first], tokens)
    head = counted.mask_head(tokens)
    assert counted.pixel_decoder == pytest.approx(formula.pixel_decoder, rel=0.01)
    assert counted.phrase(tokens) == pytest.approx(formula.phrase, rel=0.01)
    assert head.per_call == pytest.approx(formula.masks_per_call, rel=0.01)
    assert head.per_target == pytest.approx(formula.masks_per_target, rel=0.01)


# Published sizes: shared/spec/baselines.md, section 3


@pytest.mark.parametrize(("size", "tflop"), [(224, 0.162), (336, 0.382), (448, 0.724)])
def test_clip(size: int, tflop: float) -> None:
    config = PixelLMVisionConfig(kind="clip", image_size=size, clip=CLIP_LARGE).clip_config
    assert closed_form.clip(config, 24) / TERA == pytest.approx(tflop, rel=0.01)


def test_sam() -> None:
    assert system("lisa-7b").sam.flops / TERA == pytest.approx(5.961, rel=0.01)
    large = SamVisionConfig(hidden_size=1024, num_hidden_layers=24, global_attn_indexes=[5, 11, 17, 23], mlp_dim=4096)
    large.num_attention_heads = 16
    assert closed_form.sam_encoder(large) / TERA == pytest.approx(2.986, rel=0.01)
    base = SamVisionConfig(global_attn_indexes=[2, 5, 8, 11], mlp_dim=3072)
    assert closed_form.sam_encoder(base) / TERA == pytest.approx(0.972, rel=0.01)
    decoder = closed_form.sam_mask_decoder(system("lisa-7b").config.sam_decoder_config, grid=64)
    assert decoder / TERA == pytest.approx(0.0036, rel=0.02)  # given with two figures


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("pixellm-7b", {330: 4.42, 400: 5.37, 500: 6.74, 512: 6.90}),
        ("pixellm-13b", {330: 8.57, 400: 10.41, 500: 13.06, 512: 13.38}),
    ],
)
def test_llama(name: str, figures: dict[int, float]) -> None:
    one = system(name)
    for tokens, tflop in figures.items():
        assert (one.reading.flops(tokens) + one.head * tokens) / TERA == pytest.approx(tflop, rel=0.01)


def test_one_pass() -> None:
    assert claims.one_pass(system("lisa-7b"), 330) / TERA == pytest.approx(10.55, rel=0.01)
    assert claims.one_pass(system("pixellm-7b"), 330) / TERA == pytest.approx(5.35, rel=0.01)
    length = claims.length_of(system("lisa-7b"), claims.one_pass(system("lisa-7b"), 330))
    assert length == pytest.approx(330)


@pytest.mark.parametrize(("name", "backbone", "size"), [("large", 1.494, 1024), ("large", 0.513, 600)])
def test_seem(name: str, backbone: float, size: int) -> None:
    """Focal-L; the other figure is for 512 × 704, as many pixels as a square of 600."""
    seem = open_system(f"seem-focal-{name}", size // 32 * 32)
    assert isinstance(seem, SeemSystem)
    pixels = seem.config.vision_config.image_size**2
    assert seem.vision.flops / TERA == pytest.approx(
        backbone * pixels / (1024**2 if size == 1024 else 512 * 704), rel=0.02
    )


# How costs grow


def test_any_pass_follows_from_two() -> None:
    one = system("pixellm-7b")
    for tokens, context in ((1, 330), (6, 330), (1, 2000), (700, 0)):
        assert one.reading.flops(tokens, context) == pytest.approx(one.count_reading(tokens, context), rel=1e-9)


def test_a_decoding_step_grows_linearly_with_the_context() -> None:
    costs = [system("pixellm-7b").count_reading(1, context) for context in (100, 400, 700)]
    assert costs[2] - costs[1] == costs[1] - costs[0] == 300 * 4 * 32 * 4096


def test_masks_cost_the_same_each() -> None:
    one = tiny_system()
    assert one.mask_head.flops(5) == measure_masks(one, 5)
    mini = system("pixellm-mini")  # with a prior of names
    assert mini.mask_head.flops(3) == measure_masks(mini, 3)


def measure_masks(one: LanguageSystem, targets: int) -> int:
    return one._decode_masks(targets).flops


def test_the_answer_keeps_its_lengths() -> None:
    steps = list(Scenario(answer_tokens=7, targets=3).steps(group=6))
    assert [tokens for is_mask, tokens in steps if is_mask] == [6, 6, 6]
    assert sum(tokens for is_mask, tokens in steps if not is_mask) == 7
    assert steps[-1] == (True, 6)
    assert list(Scenario(answer_tokens=2, targets=0).steps(6)) == [(False, 1)] * 2


# Bills = what decoding does


def test_bill_of_real_decoding(clip_model, clip_processor, monkeypatch) -> None:
    """The production decoding, on real numbers with unfused attention, costs what the bill says."""
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
    billed = tiny_system().bill(scenario).flops
    # Here each mask is decoded when it is there, so what is computed for each call comes twice.
    billed += (targets - 1) * tiny_system().mask_head.per_call
    assert targets == 2
    assert counter.get_total_flops() == pytest.approx(billed, rel=1e-9)


def test_released_decoding_reads_everything_again() -> None:
    one = tiny_system()
    lines = {line.part: line for line in one.bill(replace(SHORT, cache=False)).lines}
    start, new = one.start(SHORT), SHORT.answer_tokens + one.group * SHORT.targets
    reread = sum(one.count_reading(length) + length * one.head for length in range(start, start + new + 1))
    spent = sum(lines[part].total for part in (bill.PREFILL, bill.TEXT, bill.GROUP))
    assert spent == pytest.approx(reread, rel=1e-9)
    assert lines[bill.VISION].calls == lines[bill.LLM_PROJECTOR].calls == new + 1
    assert lines[bill.DECODER_FEATURES].calls == 1


def test_by_phrase_is_a_text_answer_and_a_question_for_each() -> None:
    one, targets, text = tiny_system(), 2, 8
    scenario = replace(SHORT, answer_tokens=text, targets=targets)
    alone = one.bill(replace(scenario, targets=0)).flops
    prefix = one.image_tokens + scenario.system_tokens
    asked = prefix + ASK_TOKENS + text // targets
    reply = one.count_reading(ASK_TOKENS + text // targets, prefix) + one.head
    for position in range(REPLY_TOKENS):
        reply += one.step(1, asked + position)
    reply += one.step(one.group, asked + REPLY_TOKENS)
    expected = alone + targets * reply + one.mask_head.flops(targets)
    assert ByPhrase(one).bill(scenario).flops == pytest.approx(expected, rel=1e-9)


def test_seem_decodes_a_phrase_at_a_time() -> None:
    seem = SeemSystem("tiny", tiny_seem())
    one, three = (seem.bill(Scenario(answer_tokens=4 * n, targets=n)) for n in (1, 3))
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


@pytest.mark.parametrize("name", ["pixellm-7b", "lisa-7b", "lisa-mini", "pixellm-mini"])
def test_no_parameter_is_left_out(name: str) -> None:
    assert system(name).bill(Scenario()).parameters == parameters(system(name).model)


# Scenarios, claims and curves


def test_image_size() -> None:
    smaller = LanguageSystem("smaller", with_image_size(pixellm_7b(), 336))
    expected = closed_form.clip(smaller.config.vision_config.clip_config, 23)
    assert smaller.config.vision_config.image_size == 336
    assert smaller.vision == pytest.approx(expected, rel=0.01)
    at_448 = with_image_size(LANGUAGE_PRESETS["lisa-7b"](), 448)
    assert at_448.sam_vision_config.image_size == 448
    assert at_448.vision_config.image_size == 224
    for name, size in (("pixellm-7b", 450), ("lisa-7b", 450), ("seem", 450)):
        with pytest.raises(ValueError, match="multiple"):
            open_system(name, size)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pixellm-7b", "pixellm-7b"], "different"),
        (["pixellm-8b"], "pixellm-7b"),
        (["seem:rec"], "phrases"),
    ],
)
def test_names_that_mean_nothing(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_systems(names)


def test_directories(tmp_path) -> None:
    tiny.clip_config().save_pretrained(tmp_path)
    opened = open_system(str(tmp_path))
    assert opened.bill(SHORT).flops == tiny_system().bill(SHORT).flops


def test_impossible_scenarios() -> None:
    with pytest.raises(ValueError, match="system text"):
        Scenario(prompt_tokens=3)
    with pytest.raises(ValueError, match="0 or more"):
        Scenario(targets=-1)
    with pytest.raises(ValueError, match="no-cache"):
        ByPhrase(tiny_system()).bill(replace(SHORT, cache=False))
    assert tiny_system().bill(replace(SHORT, targets=0)).flops > 0


def test_curves_grow(tmp_path) -> None:
    one = tiny_system()
    found = growth.curves(one, one, ByPhrase(one), (1, 2, 8), growth.over_targets)
    assert all(list(curve.tflops) == sorted(set(curve.tflops)) for curve in found)
    by_label = {curve.label: curve for curve in found}
    again, once = by_label["PixelLM, released decoding"], by_label["PixelLM"]
    assert again.tflops[-1] / once.tflops[-1] > again.tflops[0] / once.tflops[0] > 1
    growth.plot(found, "targets", tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert growth.table(found, "targets", (1, 8)).markdown().count("\n") == 2 + len(found)


def test_claims_are_told_with_their_gaps() -> None:
    rows = claims.sam_in_tokens(system("lisa-7b")).rows
    for _, gigaflop, tokens, told in rows:
        assert float(tokens) == pytest.approx(5961 / float(gigaflop), rel=0.01)
        assert float(told.rstrip("%")) == pytest.approx(float(tokens) / 5 - 100, abs=0.6)
    assert claims.gap(5.32, 3.57) == "5.32 (+49%)"


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


def test_command(pixellm, tmp_path) -> None:
    arguments = ["--against", "lisa-mini:rec", "--targets", "2", "--out", str(tmp_path)]
    code, printed, complaint = pixellm("pixellm-7b", *arguments)
    assert (code, complaint) == (0, "")
    assert bill.GROUP in printed  # in full, however narrow the screen
    written = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))
    first = written["systems"][0]
    assert [one["name"] for one in written["systems"]] == ["pixellm-7b", "lisa-mini:rec"]
    assert first["flops"] == 2 * first["macs"] == sum(part["total_flops"] for part in first["parts"])
    assert first["flops"] == system("pixellm-7b").bill(Scenario(answer_tokens=26, targets=2)).flops
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    assert "| pixellm-7b |" in (tmp_path / "cost.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [["gpt"], ["pixellm-7b", "--image-size", "450"], ["lisa-mini:rec", "--no-cache"]])
def test_mistakes_are_one_line(pixellm, arguments: list[str]) -> None:
    code, printed, complaint = pixellm(*arguments)
    assert (code, printed) == (2, "")
    assert complaint.startswith("Error: ")
