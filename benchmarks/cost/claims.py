"""Two published claims about cost, each under the conventions that it may have been made with.

Nothing is tuned: the conventions come first, the gaps follow from them.
"""

import math
from collections.abc import Mapping, Sequence

from pixellm.cost.breakdown import PHRASE_TOKENS, CostModel, Scenario
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.report import TextTable

SAM_TOKENS = 500  # "SAM's forward pass costs as much as more than 500 LLaMA-7B tokens"
# TFLOPs of the paper's comparison (arXiv 2312.02228), as they are quoted; the paper does not say how they were counted.
PUBLISHED = {"pixellm-7b": 3.57, "lisa-7b": 7.16, "pixellm-13b": 6.65, "lisa-13b": 10.24, "seem": 0.43}
UNITS = (("FLOPs", 1), ("multiply-adds", 2))
LENGTHS = (330, 512)  # image and text tokens of one pass
SIZES = (448, 336)  # PixelLM's input in pixels: its own, and the one that its CLIP was trained at


def sam_in_tokens(lisa: LanguageCostModel) -> TextTable:
    """Tabulate the FLOPs of SAM's image encoder in tokens of the language model of LISA-7B."""
    assert lisa.sam is not None
    sam, layers, head = lisa.sam.flops, lisa.layers, lisa.head
    text = lisa.model.language_model
    size = 2 * sum(parameter.numel() for parameter in text.parameters())

    def mean_of_pass(tokens: int) -> float:
        return (layers.flops(tokens) + head * tokens) / tokens

    ways = {
        "layers alone, no context": layers.per_token,
        "2 × parameters": size,
        "one of a pass of 330": mean_of_pass(330),
        "one of a pass of 512": mean_of_pass(512),
        "a decoding step behind 330": lisa.step(1, 330),
        "a decoding step behind 2,000": lisa.step(1, 2000),
        "2 × parameters, but one FLOP a multiply-add (SAM: two)": size / 2,
    }
    rows = [
        (way, f"{cost / 1e9:.2f}", f"{sam / cost:.0f}", f"{sam / cost / SAM_TOKENS - 1:+.0%}")
        for way, cost in ways.items()
    ]
    return TextTable("SAM in tokens", ("a LLaMA-7B token", "GFLOP", "SAM in tokens", "against 500"), tuple(rows))


def one_pass(model: LanguageCostModel, tokens: int) -> float:
    """FLOPs of a teacher-forced pass: the image, `tokens` tokens with next-token scores of each, one mask."""
    image = sum(line.total for line in model.image_lines(1))
    return image + model.layers.flops(tokens) + model.head * tokens + model.mask_head.flops(1)


def generated(model: CostModel, cache: bool) -> float:
    """FLOPs of generating an answer with one target."""
    return model.breakdown(Scenario(answer_tokens=6, targets=1, cache=cache)).flops


def published_tflops(models: dict[int, Sequence[LanguageCostModel]]) -> TextTable:
    """Tabulate the paper's TFLOPs under each convention.

    Args:
        models: PixelLM-7B, LISA-7B, PixelLM-13B and LISA-13B for each of `SIZES`, the input size of PixelLM.
    """
    own = models[SIZES[0]]
    ways: dict[str, list[float]] = {}
    for tokens in LENGTHS:
        for size in SIZES:
            ways[f"one pass, {tokens} tokens, {size} px"] = [one_pass(model, tokens) for model in models[size]]
    ways["generated, with a cache"] = [generated(model, cache=True) for model in own]
    ways["generated as the released code does"] = [generated(model, cache=False) for model in own]
    rows = []
    for unit, share in UNITS:
        for way, flops in ways.items():
            values = [value / share / 1e12 for value in flops]
            cells = [gap(value, PUBLISHED[model.name]) for model, value in zip(own, values, strict=True)]
            rows.append((f"{way}, in {unit}", *cells, f"{values[0] / values[1]:.2f}", f"{values[2] / values[3]:.2f}"))
    ratios = [PUBLISHED[a.name] / PUBLISHED[b.name] for a, b in (own[:2], own[2:])]
    header = (
        *("convention", *(f"{model.name} ({PUBLISHED[model.name]})" for model in own)),
        *(f"{size} ratio ({ratio:.2f})" for size, ratio in zip(("7B", "13B"), ratios, strict=True)),
    )
    return TextTable("the paper's TFLOPs", header, tuple(rows))


def needed_tokens(models: Sequence[LanguageCostModel]) -> TextTable:
    """Tabulate the length of the pass with the published FLOPs; a right convention has one length for all models."""
    rows = []
    for unit, share in UNITS:
        lengths = [length_of(model, share * 1e12 * PUBLISHED[model.name]) for model in models]
        rows.append((f"in {unit}", *(f"{length:.0f}" if length > 0 else "none" for length in lengths)))
    return TextTable("tokens", ("tokens that one pass would need", *(model.name for model in models)), tuple(rows))


def length_of(model: LanguageCostModel, flops: float) -> float:
    """Tokens of the `one_pass` with `flops` FLOPs; negative where a pass without text takes more."""
    rest = flops - one_pass(model, 0)
    each, pair = model.layers.per_token + model.head, model.layers.per_pair
    return (math.sqrt(max(0.0, each**2 + 4 * pair * rest)) - each) / (2 * pair)


def seem_tflops(models: Mapping[str, CostModel]) -> TextTable:
    """Tabulate SEEM's published number for one phrase; `models` by the name of their row."""
    published, rows = PUBLISHED["seem"], []
    for name, model in models.items():
        flops = model.breakdown(Scenario(answer_tokens=PHRASE_TOKENS, targets=1)).flops
        rows.append((name, *(gap(flops / share / 1e12, published) for _, share in UNITS)))
    return TextTable("SEEM", (f"SEEM-style ({published})", *(f"in {unit}" for unit, _ in UNITS)), tuple(rows))


def gap(value: float, published: float) -> str:
    """Format TFLOPs with their distance from the published ones."""
    return f"{value:.2f} ({value / published - 1:+.0%})"
