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
    with monkeypatch.context() as patched:  # nothing is left to do
        patched.setattr(annotator, "fine_tune", interrupted)
        assert run() == done


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
    annotator.plot(done[:5], 3, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
