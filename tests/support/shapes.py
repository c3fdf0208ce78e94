"""Synthetic scenes of coloured shapes with questions, answers and masks, as one's own data."""

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 80, 220), "yellow": (230, 210, 50)}
SHAPES = ("square", "circle", "triangle")


def write_scenes(folder: Path, count: int, side: int = 112, seed: int = 0) -> Path:
    """Write `count` images of two shapes each, and my.jsonl: for each a question of one target, both, and none."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, lines = random.Random(seed), []
    for number in range(count):
        colours = draw.sample(sorted(COLOURS), 3)
        image = Image.new("RGB", (side, side), (200, 200, 200))
        canvas = ImageDraw.Draw(image)
        shapes = []
        for half, colour in enumerate(colours[:2]):
            shape, size = draw.choice(SHAPES), draw.randint(side * 3 // 10, side * 2 // 5)
            x = half * side // 2 + draw.randint(2, side // 2 - size - 2)
            outline = _outline(shape, x, draw.randint(2, side - size - 2), size)
            canvas.polygon(outline, fill=COLOURS[colour])
            shapes.append((f"the {colour} {shape}", [coordinate for point in outline for coordinate in point]))
        image.save(folder / f"{number}.png")
        (first, a), (second, b) = shapes
        turns = [
            (f"Segment {first}.", f"It is {first} {{seg}}.", [[a]]),
            ("What is there?", f"There are {first} {{seg}} and {second} {{seg}}.", [[a], [b]]),
            (f"Segment the {colours[2]} circle.", f"There is no {colours[2]} circle.", []),
        ]
        lines += [{"image": f"{number}.png", "question": q, "answer": t, "masks": m} for q, t, m in turns]
    path = folder / "my.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _outline(shape: str, x: int, y: int, size: int) -> list[tuple[float, float]]:
    if shape == "square":
        return [(x, y), (x + size, y), (x + size, y + size), (x, y + size)]
    if shape == "triangle":
        return [(x + size / 2, y), (x + size, y + size), (x, y + size)]
    half = size / 2
    octagon = [(0.4, 1), (1, 0.4), (1, -0.4), (0.4, -1), (-0.4, -1), (-1, -0.4), (-1, 0.4), (-0.4, 1)]
    return [(x + half + half * dx, y + half + half * dy) for dx, dy in octagon]
