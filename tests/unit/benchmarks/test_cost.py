"""Published claims about cost, and its scaling."""

import pytest

from benchmarks.cost import claims, scaling
from pixellm.cost.models import ByPhraseCostModel
from tests.support.costs import TERA, system, tiny_system


@pytest.mark.slow
def test_one_pass() -> None:
    assert claims.one_pass(system("lisa-7b"), 330) / TERA == pytest.approx(10.55, rel=0.01)
    assert claims.one_pass(system("pixellm-7b"), 330) / TERA == pytest.approx(5.35, rel=0.01)
    length = claims.length_of(system("lisa-7b"), claims.one_pass(system("lisa-7b"), 330))
    assert length == pytest.approx(330)


def test_curves_grow(tmp_path) -> None:
    one = tiny_system()
    found = scaling.curves(one, one, ByPhraseCostModel(one), (1, 2, 8), scaling.over_targets)
    assert all(list(curve.tflops) == sorted(set(curve.tflops)) for curve in found)
    by_label = {curve.label: curve for curve in found}
    again, once = by_label["PixelLM, released decoding"], by_label["PixelLM"]
    assert again.tflops[-1] / once.tflops[-1] > again.tflops[0] / once.tflops[0] > 1
    scaling.plot(found, "targets", tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert scaling.table(found, "targets", (1, 8)).markdown().count("\n") == 2 + len(found)


def test_claims_are_told_with_their_gaps() -> None:
    rows = claims.sam_in_tokens(system("lisa-7b")).rows
    for _, gigaflop, tokens, told in rows:
        assert float(tokens) == pytest.approx(5961 / float(gigaflop), rel=0.01)
        assert float(told.rstrip("%")) == pytest.approx(float(tokens) / 5 - 100, abs=0.6)
    assert claims.gap(5.32, 3.57) == "5.32 (+49%)"
