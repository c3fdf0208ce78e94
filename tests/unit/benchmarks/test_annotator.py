"""The simulated annotator with a tiny model: rounds, an interruption, the corrections that it leaves, the table."""

import json

import pytest

from benchmarks import annotator
from benchmarks.annotator import FIRST, LEARNING, Annotator, Clicked, Protocol
from pixellm.data.jsonl import read_jsonl
from tests.support import tiny
from tests.unit.benchmarks.test_clicks import source  # noqa: F401  a fixture


@pytest.mark.slow
def test_rounds(source, tmp_path, monkeypatch):  # noqa: F811
    for part in (tiny.build(tiny.detector_config(refine_width=32)), tiny.tiny_processor(64, 6)):
        part.save_pretrained(tmp_path / "model")
    out = tmp_path / "out"

    def run() -> list[Clicked]:
        protocol = Protocol(clicks=2)
        run = Annotator(source, out, str(tmp_path / "model"), [[1], [0]], protocol, steps=1)
        run.run()
        return run.done

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # after the first round, and after its corrections were trained on
        patched.setattr(annotator, "fine_tune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    first = (out / "clicks.jsonl").read_text()
    assert len((out / "annotator.md").read_text().splitlines()) == 3  # the report of the first round
    for file in ("annotator.md", "annotator.png"):
        (out / file).unlink()
    done = run()
    assert (out / "clicks.jsonl").read_text().startswith(first)
    assert [(row.round, row.model, row.image) for row in done] == [
        (0, LEARNING, "2.png"),
        (1, LEARNING, "1.png"),
        (1, FIRST, "1.png"),
    ]
    assert all(row.clicks == [2] for row in done)  # a random model never gets it right: then it is drawn by hand
    records = read_jsonl(out / "corrections/corrections.jsonl", 0.0)
    assert [[e.answer for e in record.exchanges] for record in records] == [["The person {seg}."], ["The dog {seg}."]]
    lines = [json.loads(line) for line in (out / "corrections/corrections.jsonl").read_text().splitlines()]
    assert [line["correction"]["model"] for line in lines] == ["round 1", "round 2"]
    assert records[0].exchanges[0].targets[0].mask.decode(60, 80).sum() == 1600  # the annotation
    assert len((out / "annotator.md").read_text().splitlines()) == 4
    assert (out / "annotator.png").stat().st_size > 1000
    with monkeypatch.context() as patched:  # nothing is left to do
        patched.setattr(annotator, "fine_tune", interrupted)
        assert run() == done


def test_another_run_in_the_same_directory(source, tmp_path):  # noqa: F811
    def begin(rounds, **protocol):
        return Annotator(source, tmp_path / "out", "pixellm-mini", rounds, Protocol(**protocol), steps=1)

    begin([[1], [0]])
    begin([[1], [0]])
    with pytest.raises(ValueError, match=r"got another protocol and images\. Choose another --out"):
        begin([[0], [1]], clicks=3)


def test_images_of_the_rounds(source):  # noqa: F811
    rounds = annotator.choose_rounds(source, 2, 1, 100, seed=0)
    assert sorted(record for records in rounds for record in records) == [0, 1]
    assert annotator.choose_rounds(source, 1, 1, 1500, seed=0) == [[1]]  # the other image has no object that large
    with pytest.raises(ValueError, match="at least 1500 pixels, got 1"):
        annotator.choose_rounds(source, 2, 1, 1500, seed=0)


def test_the_table_and_the_plot(tmp_path):
    done = [
        Clicked(0, LEARNING, "a", [2, 4], [0.5, 0.7]),
        Clicked(1, LEARNING, "b", [1], [0.8]),
        Clicked(1, LEARNING, "c", [2], [0.6]),
        Clicked(1, FIRST, "b", [3], [0.2]),
        Clicked(1, FIRST, "c", [4], [0.4]),
        Clicked(2, LEARNING, "d", [1], [0.8]),
    ]
    rows = annotator.table(done, 3).splitlines()[2:]
    assert rows == [
        "| 1 | 1 | 2 | 6.0 | 6.0 | 0.600 | 0.600 |",
        "| 2 | 2 | 2 | 1.5 | 3.5 | 0.700 | 0.300 |",
    ]
    annotator.plot(done, 3, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
