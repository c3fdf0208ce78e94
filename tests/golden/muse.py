"""Questions by rules about annotated images: `pixellm muse generate --engine template`, and what comes after it."""

import json
from pathlib import Path
from typing import Any

from . import SHARED, store
from .command import pixellm

IMAGES, QUESTIONS = 20, 4
SOURCE = SHARED / "data/coco_480"


def template(folder: Path) -> Any:
    """Return what is generated, checked, exported, counted and split."""
    source = ("--annotations", SOURCE / "lvis_val.json", "--images", SOURCE / "images_lvis")
    limits = ("--limit", IMAGES, "--questions", QUESTIONS, "--seed", 1)
    pixellm("muse", "generate", "made", *source, "--engine", "template", *limits)
    pixellm("muse", "check", "made", "--json", "check.json", code=None)
    pixellm("muse", "check", "made", "--self-test", "--json", "self_test.json")
    pixellm("muse", "export", "made", "exported", "--val", 0.2, "--test", 0.2, "--json", "export.json")
    files = sorted((folder / "exported").rglob("*.json"))
    entries = [path for path in files if path.name.startswith("muse_")]
    pixellm("muse", "validate", *entries, "--json", "validate.json", code=None)
    pixellm("muse", "stats", *entries, "--json", "stats.json")
    names = ("check", "self_test", "export", "validate", "stats")
    reports = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    return reports | {"entries": {path.stem: list(map(_entry, _read(path))) for path in entries}}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what an entry says; of all of it, masks included, a digest."""
    kept = {key: entry[key] for key in ("questions", "text_answers") if key in entry}
    kept["targets"] = [[target.get("rephrased_name") for target in answer] for answer in entry["answers"]]
    return kept | {"sha256": store.digest(json.dumps(entry, sort_keys=True))}
