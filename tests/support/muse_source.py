"""Any number of images of one file, with two to five annotated instances each."""

import json
import random
from pathlib import Path

from tests.support import trees

HEIGHT, WIDTH = 48, 64
NAMES = ("cup", "bowl", "spoon", "chair", "laptop", "clock", "vase", "banana")


def write(folder: Path, count: int) -> tuple[Path, Path]:
    """An instances file and the folder of its images."""
    rng = random.Random(count)
    images = folder / "images"
    trees.photograph(images / "0.jpg", (WIDTH, HEIGHT))
    content: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    for image_id in range(1, count + 1):
        name = f"{image_id}.jpg"
        (images / name).symlink_to("0.jpg")
        content["images"].append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for number, category in enumerate(rng.sample(range(1, len(NAMES) + 1), rng.randint(2, 5))):
            x, y, side = 12 * number, rng.randint(0, 30), rng.randint(8, 12)
            outline = [x, y, x + side, y, x + side, y + side, x, y + side]
            row = {"id": 10 * image_id + number, "image_id": image_id, "category_id": category}
            row |= {"segmentation": [outline], "bbox": [x, y, side, side], "area": side * side}
            content["annotations"].append(row)
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json", images
