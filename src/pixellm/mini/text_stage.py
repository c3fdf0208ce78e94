"""Stage that trains the language model to reason about scenes, on text: lists of candidates, questions and answers.

No image is read. A scene's objects are candidates with the scores that a detector might give them, among others that
are not there; answers are sentences whose codebook states point at the candidates that they mean.

Shapes:  B scenes · K candidates · W tokens of a name · T tokens of a row · G targets
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from pixellm.mini.candidates import pointer_loss
from pixellm.mini.class_prompts import mean_embedding
from pixellm.mini.losses import MiniLossWeights
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.mini.scenes import Scene, compose, draw_scene
from pixellm.model import PixelLMProcessor
from pixellm.model.codebook import find_groups
from pixellm.model.losses import LossCounts
from pixellm.model.modeling import IGNORE_INDEX, IMAGE_TOKEN_ID
from pixellm.model.packing import packed_attention_bias, packed_positions
from pixellm.types import Conversation, Output, Sample

NAME_TOKENS = 6  # of a name at most
PRESENT_SCORE = (1.5, 1.4)  # mean and standard deviation of the logits of what is there …
ABSENT_SCORE = (-2.5, 1.0)  # … and of what is not
MAX_ABSENT = 10
ABSENT_SIDE = (0.02, 0.4)  # of the image
ATTEMPTS = 4  # compositions tried for each question
BLANK = Image.new("RGB", (4, 4))

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneCandidate:
    """A candidate of a scene: its name, box in fractions of the image, and logit; `number` of its object, if any."""

    name: str
    box: Box
    score: float
    number: int | None


@dataclass(frozen=True)
class SceneSample:
    """Candidates, conversations about them, and which candidates each `{seg}` of their answers means."""

    candidates: tuple[SceneCandidate, ...]
    conversations: tuple[Conversation, ...]
    meant: tuple[tuple[int, ...], ...]


@dataclass
class SceneSamples(Dataset):
    """Scenes with questions, each a function of seed and index.

    Args:
        length: number of samples.
        questions: of each scene, at most.
        count: K; scenes with more objects are left out.
        names: of what a scene may be mistaken to show.
        seed: of everything random.
        draw: a generator → a scene.
    """

    length: int
    questions: int
    count: int
    names: Sequence[str]
    seed: int = 0
    draw: Callable[[random.Random], Scene] = draw_scene

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SceneSample:
        rng = random.Random(f"{self.seed}:{index}")
        while True:
            scene = self.draw(rng)
            sample = make_sample(scene, self.questions, self.count, self.names, rng)
            if sample.conversations:
                return sample


def make_sample(scene: Scene, questions: int, count: int, names: Sequence[str], rng: random.Random) -> SceneSample:
    """Give a scene's objects scores, add others, and compose questions whose targets are among the `count` surest."""
    rows = [
        SceneCandidate(thing.category, thing.box, rng.gauss(*PRESENT_SCORE), number)
        for number, thing in enumerate(scene.objects)
    ]
    present = {thing.category for thing in scene.objects}
    rows += [absent for absent in (_absent(names, rng) for _ in range(rng.randint(0, MAX_ABSENT))) if absent.name not in present]
    kept = ordered(sorted(rows, key=lambda row: -row.score)[:count])
    place = {row.number: at for at, row in enumerate(kept) if row.number is not None}
    conversations: list[Conversation] = []
    meant: list[tuple[int, ...]] = []
    for _ in range(ATTEMPTS * questions):
        question = compose(scene, rng)
        if len(conversations) >= questions:
            break
        if question is None or any(n not in place for turn in question.turns for one in turn.targets for n in one):
            continue
        for number, turn in enumerate(question.turns):
            blank = np.zeros((len(turn.targets), 1, 1), dtype=bool)
            conversations.append(Conversation(turn.question, turn.answer, blank, continues=number > 0))
            meant += [tuple(place[n] for n in one) for one in turn.targets]
    return SceneSample(tuple(kept), tuple(conversations), tuple(meant))


def ordered(rows: Sequence[SceneCandidate]) -> list[SceneCandidate]:
    """Order candidates as `Candidates` says."""
    best: dict[str, float] = {}
    for row in rows:
        best[row.name] = max(row.score, best.get(row.name, row.score))
    return sorted(rows, key=lambda row: (-best[row.name], row.name, row.box[0] + row.box[2]))


def _absent(names: Sequence[str], rng: random.Random) -> SceneCandidate:
    width, height = rng.uniform(*ABSENT_SIDE), rng.uniform(*ABSENT_SIDE)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return SceneCandidate(rng.choice(names), (left, top, left + width, top + height), rng.gauss(*ABSENT_SCORE), None)


@dataclass(frozen=True)
class SceneCollator:
    """Collate scenes to the keyword arguments of `SceneTraining.forward`.

    Args:
        processor: its image tokens are the grid's and the candidates'.
        count: K.
    """

    processor: PixelLMProcessor
    count: int

    def __call__(self, samples: Sequence[SceneSample]) -> dict[str, Tensor]:
        batch = self.processor([Sample(BLANK, sample.conversations) for sample in samples])
        size = (len(samples), self.count)
        names = torch.full((*size, NAME_TOKENS), -1)
        boxes, scores, valid = torch.zeros(*size, 4), torch.zeros(size), torch.zeros(size, dtype=torch.bool)
        for row, sample in enumerate(samples):
            for at, candidate in enumerate(sample.candidates):
                ids = self.processor.tokenizer.encode(f" {candidate.name}", add_special_tokens=False)[:NAME_TOKENS]
                names[row, at, : len(ids)] = torch.tensor(ids)
                boxes[row, at] = torch.tensor(candidate.box)
                scores[row, at], valid[row, at] = candidate.score, True
        targets = [one for sample in samples for one in sample.meant]
        meant = torch.zeros(len(targets), self.count, dtype=torch.bool)
        for row, one in enumerate(targets):
            meant[row, list(one)] = True
        assert batch.labels is not None
        texts = {"input_ids": batch.input_ids, "segment_ids": batch.segment_ids, "labels": batch.labels}
        return texts | {"names": names, "boxes": boxes, "scores": scores, "valid": valid, "meant": meant}


class SceneTraining(nn.Module):
    """A model with the losses of its language model and pointer alone, as `Trainer` wants it."""

    def __init__(self, model: MiniForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        labels: Tensor,
        names: Tensor,
        boxes: Tensor,
        scores: Tensor,
        valid: Tensor,
        meant: Tensor,
        counts: LossCounts,
        loss_weights: MiniLossWeights,
    ) -> Output:
        """Compute the losses of text and targets.

        Args:
            input_ids: (B, T); the grid's image tokens stay empty and unseen, the candidates' follow.
            segment_ids: (B, T).
            labels: (B, T).
            names: (B, K, W) token ids of the candidates' names, padded with -1.
            boxes: (B, K, 4) fractions of the image.
            scores: (B, K) logits.
            valid: bool (B, K).
            meant: bool (G, K).
            counts: `tokens` and `targets`.
            loss_weights: of the losses.
        """
        model, width = self.model, self.model.config.text_config.hidden_size
        embedding = model.get_input_embeddings()
        tokens = model.candidate_tokens(mean_embedding(embedding, names), boxes, scores)
        grid = tokens.new_zeros(len(tokens), model.config.llm_grid**2, width)
        seen = F.pad(valid, (grid.shape[1], 0))
        is_image = input_ids == IMAGE_TOKEN_ID
        embeddings = embedding(input_ids.masked_fill(is_image, 0))
        embeddings = embeddings.masked_scatter(is_image[..., None], torch.cat([grid, tokens], dim=1).to(embeddings.dtype))
        keys = (segment_ids >= 0) & ~torch.zeros_like(is_image).masked_scatter(is_image, ~seen)
        bias = packed_attention_bias(segment_ids, keys, embeddings.dtype)
        hidden = model.hidden_states(embeddings, bias, packed_positions(segment_ids))
        text = model.text_loss(hidden, labels) / max(1, counts["tokens"])
        groups = find_groups(input_ids, model.config.codebook_ids)
        states = model.group_states(model.codebook_inputs(hidden, embeddings), groups)
        logits = model.point(states, tokens[groups[:, 0]])
        pointing = pointer_loss(logits.float(), meant, valid[groups[:, 0]]) / max(1, counts["targets"])
        return Output([], {"ce": loss_weights.ce * text, "pointer": loss_weights.pointer * pointing})

    def count_terms(self, labels: Tensor, meant: Tensor, input_ids: Tensor, **_batch: object) -> LossCounts:
        """Count what the losses of a batch are averaged over: `tokens`, `targets` and, for the speed, `images`."""
        tokens = int((labels[:, 1:] != IGNORE_INDEX).sum())
        return Counter(tokens=tokens, targets=len(meant), images=len(input_ids))
