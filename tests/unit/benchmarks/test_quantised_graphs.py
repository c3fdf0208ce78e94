"""Images by a seed's name: the same ones again, and a smaller number among a larger."""

from pathlib import Path

from benchmarks.quantised_graphs import drawn
from pixellm.eval.benchmarks import Benchmark, BenchmarkQuestion


def benchmark() -> Benchmark:
    questions = [
        BenchmarkQuestion(f"{image}/{number}", Path(f"{image}.png"), str(image), (3, 4), "?", "?", ())
        for image in range(20)
        for number in range(2)
    ]
    return Benchmark("coco", "x.json", "", tuple(questions))


def images(limit: int | None, seed: str) -> list[str]:
    found = [question.image_id for question in drawn(benchmark(), limit, seed).questions]
    assert found[::2] == found[1::2]  # all questions on each
    return found[::2]


def test_drawn_images():
    few, more = images(5, "a"), images(9, "a")
    assert len(few) == 5
    assert set(few) < set(more)
    assert images(5, "a") == few == sorted(few, key=int)
    assert images(5, "b") != few
    assert images(None, "a") == [str(image) for image in range(20)]
