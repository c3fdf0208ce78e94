"""What is asked, and the answer that every way is made to give: the same ids, so that only the way differs."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.speed.models import PROMPT, SYSTEM, words
from pixellm.hub.models import MINI
from pixellm.imaging.images import load_image
from pixellm.predictor import Predictor
from pixellm.types import SEG_SLOT

PHOTOGRAPH = "example:cat"
PER_TARGET = 10  # text tokens that name a target, by which 4 targets make an answer of 65 tokens


@dataclass(frozen=True)
class Task:
    """One question on one photograph, and the ids of its answer, the end among them."""

    predictor: Predictor
    photograph: Image.Image
    question: str
    answer: list[int]
    targets: int

    @property
    def prompt(self) -> list[int]:
        return self.predictor.prompt_ids(self.question)

    @property
    def options(self) -> dict[str, Any]:
        """For `Predictor`: the answer's ids, though they repeat themselves."""
        return {"processors": (self.script,), "max_new_tokens": len(self.answer), "no_repeat_ngram_size": 0}

    @property
    def script(self) -> "Script":
        """For `pixellm.inference.generation`, which sees the text before the answer as well."""
        prefix = [i for i in self.predictor.processor.prefix_ids if i >= 0]
        return Script(len(prefix) + len(self.prompt), self.answer)


class Script:
    """A logits processor that makes the answer's ids what they shall be; it begins behind `start` ids."""

    def __init__(self, start: int, ids: list[int]) -> None:
        self.start, self.ids = start, ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.ids[input_ids.shape[1] - self.start]] = 0
        return forced


def task(predictor: Predictor, size: str, targets: int, photograph: str = PHOTOGRAPH) -> Task:
    """An answer with so many targets, each named in `PER_TARGET` tokens; without any, as long a text as one name."""
    question = "Segment everything, please." if size == MINI else words(PROMPT - SYSTEM)
    group, end = predictor.processor.codebook_ids, predictor.processor.eos_ids
    name = _name_ids(predictor, size)
    answer = [*[i for _ in range(targets) for i in (*name, *group)], *(name if not targets else ()), *end]
    return Task(predictor, load_image(photograph), question, answer, targets)


def _name_ids(predictor: Predictor, size: str) -> list[int]:
    """`PER_TARGET` ids that name a thing."""
    if size != MINI:
        return predictor.processor.prompts.encode(words(PER_TARGET))
    ids = predictor.processor.answer_ids(f" the striped cat with yellow eyes on the left and{SEG_SLOT}.")[:PER_TARGET]
    assert not set(ids) & set(predictor.processor.codebook_ids)
    return ids
