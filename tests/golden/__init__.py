"""Golden results: what the code gave when they were recorded, compared bit for bit with what it gives now."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"  # data and reference checkpoints; not part of the repository
RECORDED = Path(__file__).resolve().parent
