"""The annotations that records were made from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixellm.data.records import read_json
from pixellm.muse.records import MuseRecord, MuseTarget

KEPT = ("id", "segmentation", "bbox", "area", "category_id", "iscrowd")


@dataclass
class Source:
    """The annotations that records were made from: all instances of their images, and the categories' numbers."""

    category_ids: dict[str, int]
    annotations: dict[int, list[dict[str, Any]]]  # by image

    @classmethod
    def read(cls, path: Path) -> "Source":
        """From a COCO or LVIS file.

        Raises:
            ValueError: it is none.
        """
        data = read_json(path)
        try:
            names = {one["id"]: one["name"].replace("_", " ") for one in data["categories"]}
            found: dict[int, list[dict[str, Any]]] = {}
            for one in data["annotations"]:
                row = {key: one[key] for key in KEPT if key in one}
                found.setdefault(one["image_id"], []).append(row | {"category_name": names[one["category_id"]]})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: expected COCO or LVIS instances, got something else ({error!r}).") from None
        return cls({name: number for number, name in names.items()}, found)

    def things(self, record: MuseRecord) -> list[MuseTarget]:
        """Everything annotated in a record's image but crowds, without descriptions; see `Rules.others`."""
        rows = self.annotations.get(record.image.image_id, ())
        return [
            MuseTarget(
                *(row["id"], row["category_name"], "", row.get("segmentation")),
                *(tuple(row["bbox"]), float(row.get("area") or row["bbox"][2] * row["bbox"][3])),
            )
            for row in rows
            if "bbox" in row and not row.get("iscrowd")
        ]
