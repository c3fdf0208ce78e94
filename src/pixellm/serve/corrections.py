"""Corrections that clients send: checked, and kept by `pixellm.data.corrections`."""

from dataclasses import dataclass

from pixellm.data.corrections import Correction, CorrectionStore, StoredCorrection
from pixellm.serve.chat import check_text
from pixellm.serve.decoding import DecodedImage
from pixellm.serve.errors import ApiError
from pixellm.serve.schema import CorrectionForm
from pixellm.serve.settings import ServeSettings


@dataclass(frozen=True)
class Origin:
    """Name and directory of the server's model, and the tenant of a correction ("": no key needed)."""

    model: str
    checkpoint: str
    owner: str


def check_correction(sent: CorrectionForm, settings: ServeSettings) -> None:
    """Raise ApiError 400 for texts that are empty or too long."""
    if not sent.phrase.strip():
        raise ApiError(400, "expected words of the target, got an empty phrase. Name the object.", param="phrase")
    check_text(sent.phrase, settings)
    if sent.question:
        check_text(sent.question, settings)
    if len(sent.answer or "") > settings.max_answer_chars:
        raise ApiError(400, f"expected an answer of at most {settings.max_answer_chars:,} characters.", param="answer")


def keep(store: CorrectionStore, image: DecodedImage, sent: CorrectionForm, origin: Origin) -> StoredCorrection:
    """Store a correction of an image.

    Raises:
        ApiError: 400, it is none; 503, others write; 507, there is no room.
    """
    width, height = image.size
    try:
        correction = Correction(
            phrase=sent.phrase,
            mask=sent.segmentation.model_dump(),
            before=sent.before and sent.before.model_dump(),
            question=sent.question or "",
            answer=sent.answer or "",
            model=sent.model or origin.model,
            checkpoint=origin.checkpoint,
            tool=sent.tool or "",
            user=sent.user or "",
            owner=origin.owner,
        )
        correction.check_size(height, width)
    except ValueError as error:
        raise ApiError(400, f"{error}.") from None
    try:
        return store.add(image.to_pil(), correction)
    except ValueError:
        raise ApiError(503, "Others are writing corrections. Try again.", "corrections_busy") from None
    except OSError as error:
        reason = error.strerror or "an error of the disk"
        raise ApiError(
            507, f"expected room for a correction, got: {reason}. Tell the operator of this server."
        ) from None
