"""One question of MUSE with its answer and targets, and where it comes from.

instances → choice of things → engine → MuseRecord → checks → review → released layout
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pixellm.types import SEG_SLOT


@dataclass(frozen=True)
class MuseImage:
    """A photograph of a source.

    Args:
        image_id: unique in the source.
        file_name: below the folder of images.
        height, width: in pixels.
        coco_url: where COCO has it, if the source says.
        licence: what its owner allows, in words or as an address, if the source says.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    coco_url: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class MuseTarget:
    """An annotated thing that an answer shows.

    Args:
        annotation_id: in the source.
        category: its name there, as words ("hot dog").
        description: the words for it in the answer: the category rephrased, with place and look.
        segmentation: COCO polygons or RLE.
        box: x, y, width, height in pixels.
        area: pixels of the mask.
    """

    annotation_id: int
    category: str
    description: str
    segmentation: Any
    box: tuple[float, float, float, float]
    area: float


@dataclass(frozen=True)
class Provenance:
    """Who made a record.

    Args:
        engine: "server" or "template".
        model: of the server, or the version of the grammar.
        prompt: NAME@VERSION of the prompt.
        synthetic: made by rules, not by a model that saw the image.
    """

    engine: str
    model: str
    prompt: str
    synthetic: bool


@dataclass(frozen=True)
class MuseRecord:
    """A question about a photograph.

    Args:
        record_id: IMAGE_ID/NUMBER, unique in a journal.
        image: the photograph.
        question: as a user would ask it; it names no target.
        text: the answer with one `{seg}` right behind the words for each target, in the targets' order.
        targets: two or more.
        provenance: who made it.
    """

    record_id: str
    image: MuseImage
    question: str
    text: str
    targets: tuple[MuseTarget, ...]
    provenance: Provenance

    @property
    def slots(self) -> int:
        """Masks that the text has room for."""
        return self.text.count(SEG_SLOT)

    def to_json(self) -> dict[str, Any]:
        """Ready for `json.dumps`."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "MuseRecord":
        """What `to_json` gave. KeyError or TypeError if it is something else."""
        targets = tuple(MuseTarget(**{**target, "box": tuple(target["box"])}) for target in row["targets"])
        parts = {"image": MuseImage(**row["image"]), "provenance": Provenance(**row["provenance"])}
        return cls(**{**row, **parts, "targets": targets})
