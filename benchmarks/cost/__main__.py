"""Write the tables and charts of docs/cost.md: `python -m benchmarks.cost`. Nothing is run, only counted."""

from pathlib import Path

from benchmarks.cost import claims, scaling
from pixellm.cost import report
from pixellm.cost.breakdown import Scenario
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.models import ByPhraseCostModel, open_cost_model
from pixellm.eval.comparison import write_into

ROOT = Path(__file__).parents[2]
DOCUMENT, IMAGES = ROOT / "docs" / "cost.md", ROOT / "docs" / "images"
SEEM_SIZES = (1024, 608)  # the training crop; a square of as many pixels as the 512 × 704 of a test image
RESULTS = ROOT / "benchmarks" / "results" / "cost.json"


def language_model(name: str, image_size: int | None = None) -> LanguageCostModel:
    model = open_cost_model(name, image_size)
    assert isinstance(model, LanguageCostModel)
    return model


def main() -> None:
    pixellm, lisa, pixellm_13b, lisa_13b = (
        language_model(name) for name in ("pixellm-7b", "lisa-7b", "pixellm-13b", "lisa-13b")
    )
    by_phrase = ByPhraseCostModel(lisa)
    scenario = Scenario()
    models = [pixellm, lisa, by_phrase, pixellm_13b, lisa_13b, open_cost_model("seem")]
    costs = [report.cost_of(model, scenario) for model in models]
    report.write_json(costs, scenario, RESULTS)
    report.chart(costs, IMAGES / "cost_parts.png")
    for cost in costs[:2]:
        write_into(DOCUMENT, report.parts_table(cost).markdown(), cost.breakdown.model)
    write_into(DOCUMENT, report.summary_table(costs).markdown(), "systems")
    write_into(DOCUMENT, claims.sam_in_tokens(lisa).markdown(), "sam")
    at_336 = [language_model("pixellm-7b", 336), lisa, language_model("pixellm-13b", 336), lisa_13b]
    by_size = dict(zip(claims.SIZES, ([pixellm, lisa, pixellm_13b, lisa_13b], at_336), strict=True))
    write_into(DOCUMENT, claims.published_tflops(by_size).markdown(), "published")
    write_into(DOCUMENT, claims.needed_tokens([pixellm, lisa, pixellm_13b, lisa_13b]).markdown(), "needed")
    seems = {
        f"Focal-{letter}, {size} px": open_cost_model(f"seem-focal-{name}", size)
        for letter, name in (("L", "large"), ("T", "tiny"))
        for size in SEEM_SIZES
    }
    write_into(DOCUMENT, claims.seem_tflops(seems).markdown(), "seem")
    for name, x, to, axis, columns in (
        ("targets", scaling.TARGETS, scaling.over_targets, "targets, each named in 13 tokens", (1, 3, 10, 20, 34)),
        ("answer", scaling.TEXTS, scaling.over_text, "text tokens of an answer with 3 targets", (39, 127, 259, 501)),
    ):
        curves = scaling.curves(pixellm, lisa, by_phrase, x, to)
        scaling.plot(curves, axis, IMAGES / f"cost_{name}.png")
        write_into(
            DOCUMENT, scaling.table(curves, "targets" if name == "targets" else "tokens", columns).markdown(), name
        )


if __name__ == "__main__":
    main()
