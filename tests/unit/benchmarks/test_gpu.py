"""The script for a GPU: it says where there is none, and a dry run goes through all of it."""

import json
import sys

import pytest
import torch

from benchmarks import gpu


def test_it_says_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="found none: nothing was measured"):
        gpu.main()


@pytest.mark.slow
def test_dry(monkeypatch, tmp_path):
    """On one device twice: no difference at all; nothing was measured of memory."""
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry", "--out", str(tmp_path / "gpu.json")])
    gpu.main()
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert "no measurement" in report["device"]
    for name, found in report["equality"].items():
        if name != "seconds":
            assert found.pop("same answer", True), name
            assert set(found.values()) == {0}, name
    assert report["answer"]["tokens"] == 4 * (10 + 6) + 1
    assert not report["answer"]["graphs recorded"]
    assert report["qlora"]["peak_bytes"] is None
    assert report["qlora"]["planned_bytes"] > 0
