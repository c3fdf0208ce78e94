"""Two published claims about cost, each under the conventions that it may have been made with.

Nothing is tuned: the conventions come first, the gaps follow from them.
"""

import math
from collections.abc import Mapping, Sequence

from pixellm.cost.bill import System
from pixellm.cost.language import LanguageSystem
from pixellm.cost.report import Rows
from pixellm.cost.scenario import PHRASE_TOKENS, Scenario

SAM_TOKENS = 500  # "SAM's forward pass costs as much as more than 500 LLaMA-7B tokens"
# TFLOPs of the paper's comparison (arXiv 2312.02228), as they are quoted; the paper does not say how they were counted.
PUBLISHED = {"pixellm-7b": 3.57, "lisa-7b": 7.16, "pixellm-13b": 6.65, "lisa-13b": 10.24, "seem": 0.43}
UNITS = (("FLOPs", 1), ("multiply-adds", 2))
LENGTHS = (330, 512)  # image and text tokens of one pass
SIZES = (448, 336)  # PixelLM's input in pixels: its own, and the one that its CLIP was trained at


def sam_in_tokens(lisa: LanguageSystem) -> Rows:
    """SAM's image encoder, measured in tokens of the language model of LISA-7B."""
    assert lisa.sam is not None
    sam, reading, head = lisa.sam.flops, lisa.reading, lisa.head
    text = lisa.model.language_model
    size = 2 * sum(parameter.numel() for parameter in text.parameters())

    def a_pass(tokens: int) -> float:
        return (reading.flops(tokens) + head * tokens) / tokens

    ways = {
        "layers alone, no context": reading.per_token,
        "2 × parameters": size,
        "one of a pass of 330": a_pass(330),
        "one of a pass of 512": a_pass(512),
        "a decoding step behind 330": lisa.step(1, 330),
        "a decoding step behind 2,000": lisa.step(1, 2000),
        "2 × parameters, but one FLOP a multiply-add (SAM: two)": size / 2,
    }
    rows = [
        (way, f"{cost / 1e9:.2f}", f"{sam / cost:.0f}", f"{sam / cost / SAM_TOKENS - 1:+.0%}")
        for way, cost in ways.items()
    ]
    return Rows("SAM in tokens", ("a LLaMA-7B token", "GFLOP", "SAM in tokens", "against 500"), tuple(rows))


def one_pass(system: LanguageSystem, tokens: int) -> float:
    """FLOPs of a teacher-forced pass: the image, so many tokens with the scores of each, one mask."""
    image = sum(line.total for line in system.image_lines(1))
    return image + system.reading.flops(tokens) + system.head * tokens + system.mask_head.flops(1)


def generated(system: System, cache: bool) -> float:
    """FLOPs of a question for one thing, answered by generating."""
    return system.bill(Scenario(answer_tokens=6, targets=1, cache=cache)).flops


def published_tflops(systems: dict[int, Sequence[LanguageSystem]]) -> Rows:
    """The paper's TFLOPs under each convention.

    Args:
        systems: for each of `SIZES` PixelLM-7B, LISA-7B, PixelLM-13B and LISA-13B, PixelLM reading images of that size.
    """
    own = systems[SIZES[0]]
    ways: dict[str, list[float]] = {}
    for tokens in LENGTHS:
        for size in SIZES:
            ways[f"one pass, {tokens} tokens, {size} px"] = [one_pass(system, tokens) for system in systems[size]]
    ways["generated, with a cache"] = [generated(system, cache=True) for system in own]
    ways["generated as the released code does"] = [generated(system, cache=False) for system in own]
    rows = []
    for unit, share in UNITS:
        for way, flops in ways.items():
            values = [value / share / 1e12 for value in flops]
            cells = [gap(value, PUBLISHED[system.name]) for system, value in zip(own, values, strict=True)]
            rows.append((f"{way}, in {unit}", *cells, f"{values[0] / values[1]:.2f}", f"{values[2] / values[3]:.2f}"))
    ratios = [PUBLISHED[a.name] / PUBLISHED[b.name] for a, b in (own[:2], own[2:])]
    header = (
        *("convention", *(f"{system.name} ({PUBLISHED[system.name]})" for system in own)),
        *(f"{size} ratio ({ratio:.2f})" for size, ratio in zip(("7B", "13B"), ratios, strict=True)),
    )
    return Rows("the paper's TFLOPs", header, tuple(rows))


def needed_tokens(systems: Sequence[LanguageSystem]) -> Rows:
    """How long one pass would have to be for the published number: one convention would need one length for all."""
    rows = []
    for unit, share in UNITS:
        lengths = [length_of(system, share * 1e12 * PUBLISHED[system.name]) for system in systems]
        rows.append((f"in {unit}", *(f"{length:.0f}" if length > 0 else "none" for length in lengths)))
    return Rows("tokens", ("tokens that one pass would need", *(system.name for system in systems)), tuple(rows))


def length_of(system: LanguageSystem, flops: float) -> float:
    """Tokens of the `one_pass` of so many FLOPs; negative where the rest alone takes more."""
    rest = flops - one_pass(system, 0)
    each, pair = system.reading.per_token + system.head, system.reading.per_pair
    return (math.sqrt(max(0.0, each**2 + 4 * pair * rest)) - each) / (2 * pair)


def seem_tflops(systems: Mapping[str, System]) -> Rows:
    """SEEM's published number, one phrase; `systems` by what their row is called."""
    published, rows = PUBLISHED["seem"], []
    for name, system in systems.items():
        flops = system.bill(Scenario(answer_tokens=PHRASE_TOKENS, targets=1)).flops
        rows.append((name, *(gap(flops / share / 1e12, published) for _, share in UNITS)))
    return Rows("SEEM", (f"SEEM-style ({published})", *(f"in {unit}" for unit, _ in UNITS)), tuple(rows))


def gap(value: float, published: float) -> str:
    """TFLOPs, and how far they are from the published ones."""
    return f"{value:.2f} ({value / published - 1:+.0%})"
