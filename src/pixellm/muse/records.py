"""Records of MUSE: one question with its answer, targets and origin, and the annotated image that it is about.

ImageAnnotations → engine → MuseRecord → checks → review → released layout
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pixellm.types import SEG_SLOT


@dataclass(frozen=True)
class MuseImage:
    """Image of an annotation file.

    Args:
        image_id: unique in the file.
        file_name: relative to the folder of images.
        height, width: in pixels.
        coco_url, licence: as the file states them.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    coco_url: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class MuseTarget:
    """Annotated instance; in a record, with the phrase that its answer has for it.

    Args:
        annotation_id: unique in the annotation file.
        category: name of its class, as words ("hot dog").
        description: phrase in the answer: the category rephrased, with place and look; empty before there is one.
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
class ImageAnnotations:
    """Image with its instances: what an engine asks about.

    Args:
        image: the image.
        instances: instances that may become targets, without descriptions.
        others: all other annotations (crowds, and what is too small): no targets, but present.
        complete: categories of which every instance in the image is annotated, absent ones among them.
        captions: captions by annotators, if there are any.
        exhaustive: annotators looked for all categories of the file.
    """

    image: MuseImage
    instances: tuple[MuseTarget, ...]
    others: tuple[MuseTarget, ...] = ()
    complete: frozenset[str] = frozenset()
    captions: tuple[str, ...] = ()
    exhaustive: bool = True


@dataclass(frozen=True)
class Provenance:
    """Origin of a record.

    Args:
        engine: "server" or "template".
        model: model behind the server, or version of the grammar.
        prompt: NAME@VERSION of the prompt.
        synthetic: made by rules, not by a model that saw the image.
    """

    engine: str
    model: str
    prompt: str
    synthetic: bool


@dataclass(frozen=True)
class MuseRecord:
    """Question about an image, with its answer.

    Args:
        record_id: IMAGE_ID/NUMBER, unique in a journal.
        image: the image.
        question: as a user would ask it; it names no target.
        text: answer with one `{seg}` right behind the phrase of each target, in the targets' order.
        targets: two or more.
        provenance: origin.
    """

    record_id: str
    image: MuseImage
    question: str
    text: str
    targets: tuple[MuseTarget, ...]
    provenance: Provenance

    @property
    def slots(self) -> int:
        """Number of mask slots in the text."""
        return self.text.count(SEG_SLOT)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "MuseRecord":
        """Read what `to_json` returned; KeyError or TypeError if it is something else."""
        targets = tuple(MuseTarget(**{**target, "box": tuple(target["box"])}) for target in row["targets"])
        parts = {"image": MuseImage(**row["image"]), "provenance": Provenance(**row["provenance"])}
        return cls(**{**row, **parts, "targets": targets})
