"""The example images as files, and questions about them with masks drawn by hand."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import skimage

FILES = {
    "astronaut": "astronaut.png",
    "cameraman": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
CAT = [90, 60, 150, 10, 230, 60, 310, 40, 380, 130, 330, 260, 180, 290, 80, 200]
CUP, SPOON = [190, 60, 400, 60, 420, 250, 300, 320, 180, 240], [360, 280, 520, 250, 530, 270, 380, 310]
PERSON = [120, 20, 330, 20, 400, 300, 440, 500, 60, 500, 100, 280]
ROCKET = [310, 80, 335, 80, 340, 330, 305, 330]
MOTORCYCLE = [90, 150, 420, 80, 640, 200, 620, 420, 200, 470, 100, 380]
ROWS = (
    ("cat", "Segment the cat.", "The cat {seg}.", [[CAT]]),
    ("cat", "Is there a dog?", "There is no dog here.", []),
    ("coffee", "What is on the table?", "A cup {seg} and a spoon {seg}.", [[CUP], [SPOON]]),
    ("coffee", "What holds the coffee?", "The cup {seg} does.", [[CUP]]),
    ("astronaut", "Segment the person.", "The person {seg}.", [[PERSON]]),
    ("rocket", "What flies to space?", "The rocket {seg}.", [[ROCKET]]),
    ("motorcycle", "What could I ride?", "You could ride the motorcycle {seg}.", [[MOTORCYCLE]]),
    ("motorcycle", "Where is the bird?", "I see no bird in this image.", []),
    ("cameraman", "What is in the picture?", "A person {seg}.", [[PERSON]]),
)


def example(folder: Path, name: str) -> str:
    """Put an example image into a folder; return its file's name."""
    file = FILES[name]
    if not (folder / file).is_file():
        shutil.copyfile(Path(skimage.__file__).parent / "data" / file, folder / file)
    return file


def example_rows(folder: Path) -> list[dict[str, Any]]:
    """Return one's own questions and masks; their images are put into the folder."""
    return [
        {"image": example(folder, name), "question": question, "answer": answer, "masks": masks}
        for name, question, answer, masks in ROWS
    ]


def jsonl(folder: Path, rows: Sequence[dict[str, Any]], name: str = "golden.jsonl") -> Path:
    """Write rows as JSON lines."""
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
