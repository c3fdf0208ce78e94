"""Two published claims about cost, each under the conventions that it may have been made with.

Nothing is tuned: the conventions come first, the gaps follow from them.
"""

from collections.abc import Sequence

from pixellm.cost.bill import MASKS, PREFILL, System
from pixellm.cost.language import LanguageSystem
from pixellm.cost.report import Rows
from pixellm.cost.scenario import Scenario

SAM_TOKENS = 500  # "SAM's forward pass costs as much as more than 500 LLaMA-7B tokens"
# TFLOPs of the paper's comparison (arXiv 2312.02228), as they are quoted; the paper does not say how they were counted.
PUBLISHED = {"pixellm-7b": 3.57, "lisa-7b": 7.16, "pixellm-13b": 6.65, "lisa-13b": 10.24, "seem": 0.43}
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


def published_tflops(systems: dict[int, Sequence[LanguageSystem]], others: Sequence[System] = ()) -> Rows:
    """The paper's TFLOPs under each convention.

    Args:
        systems: for each of `SIZES` PixelLM-7B, LISA-7B, PixelLM-13B and LISA-13B, PixelLM reading images of that size.
        others: without a language model: they cost the same in all of its conventions.
    """
    own = systems[SIZES[0]]
    ways: dict[str, list[float]] = {}
    for tokens in LENGTHS:
        for size in SIZES:
            ways[f"one pass, {tokens} tokens, {size} px"] = [one_pass(system, tokens) for system in systems[size]]
    ways["generated, with a cache"] = [generated(system, cache=True) for system in own]
    ways["generated as the released code does"] = [generated(system, cache=False) for system in own]
    flat = [other.bill(Scenario(answer_tokens=6, targets=1)).flops for other in others]
    names = [system.name for system in (*own, *others)]
    header = ("convention", *(f"{name} ({PUBLISHED[name]})" for name in names), "7B ratio (0.50)", "13B ratio (0.65)")
    rows = []
    for unit, share in (("FLOPs", 1), ("multiply-adds", 2)):
        for way, flops in ways.items():
            values = [value / share / 1e12 for value in (*flops, *flat)]
            cells = [
                f"{value:.2f} ({value / PUBLISHED[name] - 1:+.0%})" for name, value in zip(names, values, strict=True)
            ]
            rows.append((f"{way}, in {unit}", *cells, f"{values[0] / values[1]:.2f}", f"{values[2] / values[3]:.2f}"))
    return Rows("the paper's TFLOPs", header, tuple(rows))


def by_sam_and_vision(systems: Sequence[System]) -> Rows:
    """What is not the language model: the published differences leave room for so much."""
    rows = []
    for system in systems:
        lines = system.bill(Scenario(answer_tokens=6, targets=1)).lines
        vision = sum(line.total for line in lines[: [line.part for line in lines].index(PREFILL)])
        masks = sum(line.total for line in lines if line.part == MASKS)
        rows.append((system.name, f"{vision / 1e12:.2f}", f"{masks / 1e12:.4f}", f"{vision / 2e12:.2f}"))
    header = ("system", "vision and SAM, TFLOP", "mask head for one, TFLOP", "vision and SAM, T multiply-adds")
    return Rows("beside the language model", header, tuple(rows))
