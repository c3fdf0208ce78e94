"""What `Accept` may ask of /v1/segment: JSON, the photograph with the masks drawn in, or a COCO file."""

import io
from dataclasses import replace
from typing import Any

from pixellm.serve.errors import ApiError
from pixellm.serve.pictures import Picture
from pixellm.types import Answer

JSON, PNG, COCO = "application/json", "image/png", "application/vnd.coco+json"
OFFERED = (JSON, PNG, COCO)


def chosen(accept: str | None) -> str:
    """The format that a client likes best; the first of them where it does not mind. ApiError 406: none is good."""
    wanted = [_weighed(part) for part in (accept or "*/*").split(",")]
    best, found = 0.0, None
    for offered in OFFERED:
        fitting = [(len(kind.strip("*")), weight) for kind, weight in wanted if _fits(kind, offered)]
        weight = max(fitting)[1] if fitting else 0.0  # what is said most precisely counts
        if weight > best:
            best, found = weight, offered
    if found is None:
        raise ApiError(406, f"expected Accept with one of {', '.join(OFFERED)}.")
    return found


def _weighed(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        return kind, min(1.0, max(0.0, float(quality)))
    except ValueError:
        return kind, 0.0


def _fits(kind: str, offered: str) -> bool:
    return kind in ("*/*", offered) or (kind.endswith("/*") and offered.startswith(kind[:-1]))


def coco(answer: Answer, picture: Picture) -> dict[str, Any]:
    """Return a COCO instances file of one image, as `pixellm export` writes it."""
    from pixellm.export.answers import by_image
    from pixellm.export.coco import coco_file

    rounded = Answer.from_json(answer.to_json() | {"id": "1", "image": f"{picture.digest[:16]}.png"})
    content, _ = coco_file(by_image([rounded]))
    return content | {"info": {"description": answer.text}}


def overlay(answer: Answer, picture: Picture) -> bytes:
    """Return the image with the masks drawn in, as PNG."""
    stream = io.BytesIO()
    replace(answer, image=picture.image()).overlay().save(stream, "PNG", compress_level=1)
    return stream.getvalue()
