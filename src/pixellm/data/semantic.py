"""Classes and parts: ADE20K, COCO-Stuff, Mapillary Vistas v2, PACO-LVIS, PASCAL-Part, any COCO or LVIS instances file.

Layout below the data root:

    ade20k/{images,annotations}/training                         *.jpg, *.png
    coco/train2017, cocostuff/train2017                          *.jpg, *.png (of `stuffthingmaps`)
    mapillary/config_v2.0.json, mapillary/training/{images, v2.0/labels}
    vlpart/paco/annotations/paco_lvis_v1_train.json              images: coco/train2017
    vlpart/pascal_part/{train.json, VOCdevkit/VOC2010/JPEGImages}
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pixellm.data.datasets import MAX_BAD_FRACTION, BadRecord, Faults, RecordList, name_of, read_json, size_of
from pixellm.data.records import Instance, Labels, Record, Segments, read_labels
from pixellm.utils.checks import expect

CLASSES_FILE = Path(__file__).with_name("classes.yaml")
# Of the first list of COCO's categories these were never annotated: their labels do not occur, and tell nothing.
UNUSED_IN_COCO = frozenset(
    (
        *("street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender"),
        "hair brush",
    )
)


class LabelMaps(Sequence[Record]):
    """Images with a label map each: one instance for each class in it; all other classes are absent.

    Args:
        images, labels: folders of `*.jpg` and of `*.png` with the same names.
        names: what each label is called; pixels with other labels count as not annotated.

    Raises:
        ValueError: no label maps there, or one without its image (too many, see `Faults`).
    """

    def __init__(
        self, images: Path, labels: Path, names: Mapping[int, str], max_bad_fraction: float = MAX_BAD_FRACTION
    ) -> None:
        self.labels = labels
        self.values: dict[str, list[int]] = defaultdict(list)
        for value, name in names.items():
            self.values[name].append(value)
        stems = sorted(path.stem for path in labels.glob("*.png"))
        if not stems:
            raise ValueError(f"expected label maps *.png in {labels}, found none. See `pixellm data layout`.")
        files = {path.stem: path for path in images.glob("*.jpg")}
        faults = Faults(labels, max_bad_fraction)
        for stem in stems:
            if stem not in files:
                faults.add(stem, f"no image {stem}.jpg in {images}")
        self.bad: Sequence[BadRecord] = faults.check(len(stems))
        self._images = [files[stem] for stem in stems if stem in files]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        image = self._images[index]
        file = self.labels / f"{image.stem}.png"
        present = set(np.unique(read_labels(file)).tolist())
        instances, absent = [], []
        for name, values in self.values.items():
            if present.isdisjoint(values):
                absent.append(name)
            else:
                instances.append(Instance((name,), Labels(file, tuple(values))))
        return Record(image.stem, image, None, tuple(instances), tuple(absent))


def read_instances(
    annotations: Path, images: Path, complete: bool = False, max_bad_fraction: float = MAX_BAD_FRACTION
) -> RecordList:
    """Read a COCO-format file: one record for each image with annotations, one instance for each category in it.

    An instance is the union of its category's objects; its names are `instance_names` of it. Absent is what an image
    lists in `neg_category_ids` (LVIS, PACO), and, in a file that annotates every object of its categories, all else.

    Args:
        annotations: the JSON file.
        images: the folder that file names are relative to.
        complete: every object of every category is annotated.
        max_bad_fraction: see `Faults`.
    """
    data = read_json(annotations)
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise ValueError(f"{annotations}: expected a COCO file with lists images, annotations and categories.")
    faults = Faults(annotations, max_bad_fraction)
    names = faults.index(data["categories"], "category", lambda row: instance_names(expect(row["name"], str, "a name")))
    rows = faults.index(data["images"], "image")
    segmentations: dict[int, dict[int, list]] = defaultdict(dict)
    for annotation in data["annotations"]:
        with faults.guard(f"annotation {name_of(annotation)}"):
            if annotation["image_id"] not in rows:
                raise ValueError(f"no image {annotation['image_id']}")
            if annotation["category_id"] not in names:
                raise ValueError(f"no category {annotation['category_id']}")
            Segments((annotation["segmentation"],)).checked()
            by_category = segmentations[annotation["image_id"]]
            by_category.setdefault(annotation["category_id"], []).append(annotation["segmentation"])
    records = []
    for image in rows.values():
        if by_category := segmentations.get(image["id"]):
            with faults.guard(image["id"]):
                file = file_of(image, images)
                instances, absent = _instances(image, by_category, names, complete)
                records.append(Record(str(image["id"]), file, size_of(image), instances, absent))
    return RecordList(records, faults.check(len(data["annotations"])))


def _instances(
    image: dict[str, Any], segmentations: dict[int, list], names: dict[int, tuple[str, ...]], complete: bool
) -> tuple[tuple[Instance, ...], tuple[str, ...]]:
    """Return instances and absent names of an image; categories that are called alike are one."""
    united: dict[tuple[str, ...], list] = defaultdict(list)
    for category, parts in segmentations.items():
        united[names[category]] += parts
    # Of these, not every object is annotated (LVIS): neither are their masks all there is, nor are they absent.
    partly = {names[category] for category in image.get("not_exhaustive_category_ids", ()) if category in names}
    negative = names if complete else image.get("neg_category_ids", ())
    absent = {names[category][0] for category in negative if category in names}
    absent -= {name[0] for name in (*united, *partly)}
    instances = [Instance(name, Segments(tuple(parts))) for name, parts in united.items() if name not in partly]
    return tuple(instances), tuple(sorted(absent))


def instance_names(category: str) -> tuple[str, ...]:
    """Return a category as it is referred to: without what only tells senses apart, parts with what they belong to."""
    whole, _, component = (re.sub(r"[ _]\(.*", "", word).replace("_", " ").strip() for word in category.partition(":"))
    return (f"{whole} {component}", f"{component} of the {whole}") if component else (whole,)


def file_of(image: dict[str, Any], folder: Path) -> Path:
    """Find the file of a COCO or LVIS image.

    LVIS v1 gives only the URL it came from, v0.5 a file name of another year, too: of all that they may mean, the first
    that is there, or the first of all.
    """
    url = PurePosixPath(expect(image.get("coco_url", ""), str, "a URL"))
    named = [image["file_name"]] if "file_name" in image or not url.name else []
    choices = [expect(name, str, "a file name") for name in named]
    choices += ["/".join(url.parts[-2:]), url.name] if url.name else []
    return next((folder / choice for choice in choices if (folder / choice).is_file()), folder / choices[0])


@cache
def class_names(dataset: str) -> tuple[str, ...]:
    """Return the classes of "ade20k" or "cocostuff", in the order of their labels."""
    import yaml

    return tuple(yaml.safe_load(CLASSES_FILE.read_text(encoding="utf-8"))[dataset])


def ade20k(root: Path, _: str, max_bad_fraction: float) -> LabelMaps:
    """Read ADE20K: 150 classes; label 0 is what belongs to none."""
    names = dict(enumerate(class_names("ade20k"), start=1))
    folder = root / "ade20k"
    return LabelMaps(folder / "images/training", folder / "annotations/training", names, max_bad_fraction)


def cocostuff(root: Path, _: str, max_bad_fraction: float) -> LabelMaps:
    """Read COCO-Stuff without the 28 classes with "-" in their names: leftovers, or finer than one says."""
    labels = enumerate(class_names("cocostuff"))
    names = {label: name for label, name in labels if "-" not in name and name not in UNUSED_IN_COCO}
    return LabelMaps(root / "coco/train2017", root / "cocostuff/train2017", names, max_bad_fraction)


def mapillary(root: Path, _: str, max_bad_fraction: float) -> LabelMaps:
    """Read Mapillary Vistas; its own `config_v2.0.json` has the classes in the order of the labels."""
    folder = root / "mapillary"
    config = folder / "config_v2.0.json"
    try:
        labels = enumerate(read_json(config)["labels"])
        # "void" is what belongs to no class, and the car that the camera was on.
        names = {v: label["readable"].lower() for v, label in labels if not label.get("name", "").startswith("void")}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config}: expected `labels` with a `readable` name each ({error!r}).") from None
    return LabelMaps(folder / "training/images", folder / "training/v2.0/labels", names, max_bad_fraction)


def paco_lvis(root: Path, _: str, max_bad_fraction: float) -> RecordList:
    """Read PACO-LVIS: objects and their parts on COCO images."""
    file = root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    return read_instances(file, root / "coco", max_bad_fraction=max_bad_fraction)


def pascal_part(root: Path, _: str, max_bad_fraction: float) -> RecordList:
    """Read PASCAL-Part: parts of objects on VOC 2010 images."""
    folder = root / "vlpart/pascal_part"
    images = folder / "VOCdevkit/VOC2010/JPEGImages"
    return read_instances(folder / "train.json", images, max_bad_fraction=max_bad_fraction)
