"""The reference checkpoints, converted, asked and trained further."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from . import SHARED
from .answers import described
from .command import pixellm
from .internals import fill_in, load
from .pictures import example_rows, jsonl
from .trainings import further, weights

QUESTION = "Where is the dog?"
# Free text tokens, and None where a mask begins.
PLANS: tuple[Sequence[int | None], ...] = ((4, None, 3), (2, None, 2, None, 1), (6,))
LISA_TRAINS = ("codebook", "pixel_decoder")  # its encoder stays as SAM's


def pixellm_checkpoint(folder: Path) -> Any:
    """Return what becomes of the released PixelLM."""
    return _checkpoint(folder, SHARED / "reference", ("landscape_two_targets", "portrait_one_target"))


def lisa_checkpoint(folder: Path) -> Any:
    """Return what becomes of the released LISA."""
    return _checkpoint(folder, SHARED / "reference_lisa", ("portrait_two_masks",), trained=list(LISA_TRAINS))


def _checkpoint(folder: Path, released: Path, pictures: Sequence[str], **stage: Any) -> Any:
    pixellm("convert", released / "hf_model", "ours", "--vision", released / "clip-tiny", "--check")
    segmenter = load(folder / "ours")
    answers = []
    for picture in pictures:
        segmenter.set_image(load_file(released / f"{picture}.safetensors")["image"].numpy())
        answers += [described(fill_in(segmenter, QUESTION, plan)) for plan in PLANS]
        answers.append(described(segmenter.ask(QUESTION, max_new_tokens=8)))
    trained = further(folder, "ours", jsonl(folder, example_rows(folder)[:4]), steps=2, **stage)
    return {"weights": weights(folder / "ours/model.safetensors"), "answers": answers, "trained": trained}
