"""The functions of a recipe, on answers that are known; `tests/e2e/test_readme.py` runs the whole page."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pixellm.types import Answer, Target

PAGE = Path(__file__).parents[2] / "docs/recipes/driving.md"
HEIGHT, WIDTH = 40, 60


@pytest.fixture
def recipe(monkeypatch) -> ModuleType:
    """The recipe up to where it loads a model."""
    (code,) = re.findall(r"^```python\n(.*?)^predictor =", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    module = ModuleType("driving")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    exec(code, module.__dict__)
    return module


def mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Boxes (x, y, end of x, end of y)."""
    drawn = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        drawn[y0:y1, x0:x1] = True
    return drawn


class Answering:
    """Answers each question with a list of phrases and masks."""

    def __init__(self, *answers: list[tuple[str, np.ndarray]]) -> None:
        self.answers = answers

    def set_image(self, image: str) -> None: ...

    def ask_many(self, questions: list[str]) -> list[Answer]:
        named = [tuple(Target.of_mask(phrase, (0, 0), drawn) for phrase, drawn in found) for found in self.answers]
        return [Answer("", "", targets, (HEIGHT, WIDTH)) for targets in named]


def test_the_nearest_comes_first_and_each_once(recipe) -> None:
    cars = mask((2, 5, 10, 20), (45, 10, 58, 38))
    found = recipe.hazards(
        Answering(
            [("the cyclist", mask((25, 10, 35, 30)))],
            [("a bicycle", mask((26, 12, 34, 30))), ("the person", mask((0, 0, 1, 1)))],  # found before, and a speck
            [("The cars", cars)],
            [],
        ),
        "a.jpg",
    )
    assert [(hazard.phrase, hazard.side, hazard.bottom) for hazard in found] == [
        ("cars", "on the right", 38 / 40),
        ("cyclist", "ahead", 30 / 40),
        ("cars", "on the left", 20 / 40),
    ]
    assert np.array_equal(found[0].mask | found[2].mask, cars)
    assert recipe.summary(found) == "Watch for, nearest first: cars on the right; cyclist ahead; cars on the left."
    assert recipe.summary(found[:1] * 2) == "Watch for, nearest first: cars on the right."


def test_nothing_found_is_no_free_road(recipe) -> None:
    found = recipe.hazards(Answering([("the car", mask())]), "a.jpg")
    assert found == []
    assert "does not mean that the road is free" in recipe.summary(found)
