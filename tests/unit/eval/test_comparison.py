"""Experiments side by side."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pixellm.eval.comparison import RUN, difference, markdown, plot, read_runs, verdict, with_base, write_into


def write(root: Path, name: str, seed: int, giou: float) -> None:
    folder = root / f"{name}-{seed}"
    folder.mkdir(parents=True)
    recipe = {"name": name, "seed": seed, "stage": {"steps": 2}, "validation": {"sets": {"a": 1}}}
    (folder / RUN).write_text(json.dumps({"recipe": recipe, "metrics": {"giou": giou, "ciou": 0.5}}))


@pytest.fixture
def runs(tmp_path) -> Path:
    for name, values in (("nano", (0.20, 0.22, 0.24)), ("nano-b", (0.10, 0.11, 0.12)), ("nano-c", (0.21, 0.23))):
        for seed, value in enumerate(values):
            write(tmp_path / "runs", name, seed, value)
    return tmp_path / "runs"


def test_table(runs) -> None:
    experiments = with_base(read_runs([runs]), None)
    assert [(one.name, one.values("giou")) for one in experiments[:1]] == [("nano", [0.20, 0.22, 0.24])]
    lines = markdown(experiments).splitlines()
    assert lines[2] == "| nano | 3 | 22.0 ± 2.0 | 50.0 ± 0.0 |  |  |"
    assert lines[3].startswith("| nano-b | 3 | 11.0 ± 1.0 | 50.0 ± 0.0 | -11.0 (")
    assert lines[3].endswith("| worse |")
    assert lines[4].endswith("| no effect seen |")


def test_the_interval_is_welchs(runs) -> None:
    """T = -11 / sqrt(4/3 + 1/3) with 2.94 degrees of freedom: quantile 3.2199."""
    base, other, _ = with_base(read_runs([runs]), "nano")
    change, low, high = difference(other, base, "giou")
    assert change == pytest.approx(-0.11)
    error = (0.02**2 / 3 + 0.01**2 / 3) ** 0.5
    assert (low, high) == pytest.approx((-0.11 - 3.2199 * error, -0.11 + 3.2199 * error), rel=1e-3)
    assert (verdict(0.1, 0.2), verdict(-0.2, -0.1), verdict(-0.1, 0.1)) == ("better", "worse", "no effect seen")


def test_one_run_alone_has_no_spread(tmp_path) -> None:
    write(tmp_path, "a", 0, 0.5)
    write(tmp_path, "ab", 0, 0.6)
    assert "| ab | 1 | 60.0 | 50.0 |  |  |" in markdown(with_base(read_runs([tmp_path]), None))


def test_the_table_takes_its_place_in_a_document(runs, tmp_path) -> None:
    document = tmp_path / "docs.md"
    document.write_text("before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n")
    for table in ("| a |\n", "| b |\n"):
        write_into(document, table)
    assert document.read_text() == "before\n<!-- figures -->\n| b |\n<!-- /figures -->\nafter\n"
    document.write_text("<!-- one -->\n<!-- /one -->\n<!-- two -->\n<!-- /two -->\n")
    write_into(document, "| c |\n", "two")
    assert document.read_text() == "<!-- one -->\n<!-- /one -->\n<!-- two -->\n| c |\n<!-- /two -->\n"
    write_into(tmp_path / "new.md", "| a |\n")
    assert "| a |" in (tmp_path / "new.md").read_text()
    document.write_text("no marks")
    with pytest.raises(ValueError, match="expected the marks"):
        write_into(document, "| a |\n")
    assert document.read_text() == "no marks"
    plot(with_base(read_runs([runs]), "nano"), tmp_path / "plots/p.png")
    with Image.open(tmp_path / "plots/p.png") as picture:
        assert min(picture.size) > 100


def test_mistakes(runs, tmp_path) -> None:
    with pytest.raises(ValueError, match="--base: expected one of nano, nano-b, nano-c, got 'x'"):
        with_base(read_runs([runs]), "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected finished runs"):
        read_runs([tmp_path / "empty"])
    write(tmp_path / "again", "nano", 0, 0.1)
    with pytest.raises(ValueError, match="expected one run of nano with the seed 0"):
        read_runs([runs, tmp_path / "again"])
    assert len(read_runs([runs, runs / "nano-0"])) == 3  # a run that is named twice counts once
    file = runs / "nano-0" / RUN
    told = json.loads(file.read_text())
    for change, message in (
        ({"recipe": told["recipe"] | {"stage": {"steps": 3}}}, "expected the same recipe in all runs of nano"),
        ({"recipe": told["recipe"] | {"name": "d", "validation": None}}, "runs that were asked the same questions"),
    ):
        file.write_text(json.dumps(told | change))
        with pytest.raises(ValueError, match=message):
            read_runs([runs])
    file.write_text(json.dumps(told | {"metrics": {}}))  # not finished
    assert [len(one.runs) for one in read_runs([runs])] == [2, 3, 2]
    file.write_text("{")
    with pytest.raises(ValueError, match="expected what a training wrote"):
        read_runs([runs])


def test_old_names_are_read(tmp_path, caplog) -> None:
    recipe = {"name": "nano", "seed": 0, "validation": {}}
    (tmp_path / RUN).write_text(json.dumps({"recipe": recipe, "figures": {"giou": 0.5, "silence": 0.75}}))
    (experiment,) = read_runs([tmp_path])
    assert experiment.runs == ({"giou": 0.5, "no_target_accuracy": 0.75},)
    assert "the metric silence is called no_target_accuracy now" in caplog.text
