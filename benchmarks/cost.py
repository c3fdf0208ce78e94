"""Costs of docs/cost.md: its tables between their marks, its pictures in docs/images. Nothing is run, only counted.

python benchmarks/cost.py
"""

import json
from pathlib import Path

from pixellm.cost import claims, growth, report
from pixellm.cost.by_phrase import ByPhrase
from pixellm.cost.language import LanguageSystem
from pixellm.cost.scenario import Scenario
from pixellm.cost.systems import open_system
from pixellm.eval.comparison import write_into
from pixellm.utils.files import write_text

ROOT = Path(__file__).parents[1]
DOCUMENT, IMAGES = ROOT / "docs" / "cost.md", ROOT / "docs" / "images"
SEEM_SIZES = (1024, 608)  # the training crop; a square of as many pixels as the 512 × 704 of a test photograph
RESULTS = ROOT / "benchmarks" / "results" / "cost.json"


def language_system(name: str, image_size: int | None = None) -> LanguageSystem:
    system = open_system(name, image_size)
    assert isinstance(system, LanguageSystem)
    return system


def main() -> None:
    pixellm, lisa, pixellm_13b, lisa_13b = (
        language_system(name) for name in ("pixellm-7b", "lisa-7b", "pixellm-13b", "lisa-13b")
    )
    by_phrase = ByPhrase(lisa)
    scenario = Scenario()
    systems = [pixellm, lisa, by_phrase, pixellm_13b, lisa_13b, open_system("seem")]
    costs = [report.cost_of(one, scenario) for one in systems]
    write_text(RESULTS, json.dumps(report.as_json(costs, scenario), indent=1) + "\n")
    report.chart(costs, IMAGES / "cost_parts.png")
    for cost in costs[:2]:
        write_into(DOCUMENT, report.parts_table(cost).markdown(), cost.bill.system)
    write_into(DOCUMENT, report.summary_table(costs).markdown(), "systems")
    write_into(DOCUMENT, claims.sam_in_tokens(lisa).markdown(), "sam")
    at_336 = [language_system("pixellm-7b", 336), lisa, language_system("pixellm-13b", 336), lisa_13b]
    by_size = dict(zip(claims.SIZES, ([pixellm, lisa, pixellm_13b, lisa_13b], at_336), strict=True))
    write_into(DOCUMENT, claims.published_tflops(by_size).markdown(), "published")
    write_into(DOCUMENT, claims.needed_tokens([pixellm, lisa, pixellm_13b, lisa_13b]).markdown(), "needed")
    seems = {
        f"Focal-{letter}, {size} px": open_system(f"seem-focal-{name}", size)
        for letter, name in (("L", "large"), ("T", "tiny"))
        for size in SEEM_SIZES
    }
    write_into(DOCUMENT, claims.seem_tflops(seems).markdown(), "seem")
    for name, x, to, axis, shown in (
        ("targets", growth.TARGETS, growth.over_targets, "targets, each named in 13 tokens", (1, 3, 10, 20, 34)),
        ("answer", growth.TEXTS, growth.over_text, "text tokens of an answer with 3 targets", (39, 127, 259, 501)),
    ):
        found = growth.curves(pixellm, lisa, by_phrase, x, to)
        growth.plot(found, axis, IMAGES / f"cost_{name}.png")
        write_into(DOCUMENT, growth.table(found, "targets" if name == "targets" else "tokens", shown).markdown(), name)


if __name__ == "__main__":
    main()
