"""Stage that trains the language model to reason about scenes, on text: lists of candidates, questions and answers.

No image is read. A scene's objects are candidates whose categories are sure to be there; others are unsure, and count
as there where a question names them. Answers are sentences whose codebook states point at the candidates they mean.

Shapes:  B scenes · K candidates · W tokens of a name · T tokens of a row · G targets
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from pixellm.data.categories import COCO
from pixellm.mini.candidates import UNSURE, pointer_loss
from pixellm.mini.class_prompts import mean_embedding
from pixellm.mini.losses import MiniLossWeights
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.mini.scenes import DEFAULT_WEIGHTS, Scene, SceneObject, compose, draw_scene
from pixellm.mini.scenes.lexicon import canonical, names, overlapping
from pixellm.model import PixelLMProcessor
from pixellm.model.losses import IGNORE_INDEX, LossCounts, text_loss, without_labels
from pixellm.model.states import EncodedImages
from pixellm.types import Conversation, Output, Sample

NAME_TOKENS = 6  # of a name at most
UNMARKED_RATES = (0.3, 0.07)  # of names without and with a candidate: without marks, what was read has to do
FIRST_TOKENS, FIRST_WEIGHT = 4, 4.0  # of an answer: they decide what it says, and count so much more
LOWEST_SURE, SURE_SPREAD = 0.1, 2.0  # scores of what is there: above the first by half a normal distribution
UNSURE_COUNTS = (0, 2, 3, 5, 7, 10)  # categories of a scene that are unsure
UNSURE_SIDE = (0.02, 0.5)  # of the image
ANY_NAME_RATE = 0.4  # of scenes: unsure categories from the whole lexicon, else from COCO
NAMING_RATE = 0.3  # of questions: they name what they ask for, and unsure categories count as there
# Kinds of questions that name categories.
NAMING = {
    **{"category": 0.25, "several": 0.2, "each": 0.06, "count": 0.08, "order": 0.08, "place": 0.05, "followup": 0.08},
    "nothing": 0.35,
}
BOX_NOISE = 0.04  # of a side
DRAWN_RATE = 0.6  # of scenes, where there are annotated ones, too
ATTEMPTS = 3  # compositions tried for each question
BLANK = Image.new("RGB", (4, 4))

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneCandidate:
    """A candidate of a scene: its category, box in fractions of the image, and score; `number` of its object."""

    category: str
    box: Box
    score: float
    number: int


@dataclass(frozen=True)
class SceneSample:
    """Candidates, conversations about them, and which candidates each `{seg}` of their answers means.

    `seed` is of the names that texts don't mark.
    """

    candidates: tuple[SceneCandidate, ...]
    conversations: tuple[Conversation, ...]
    meant: tuple[tuple[int, ...], ...]
    seed: int = 0


@dataclass
class SceneSamples(Dataset):
    """Scenes with questions, each a function of seed and index.

    Args:
        length: number of samples.
        questions: of each scene, at most.
        count: K; scenes with more objects are left out.
        annotated: scenes of photographs, among which drawn ones are mixed.
        seed: of everything random.
    """

    length: int
    questions: int
    count: int
    annotated: Sequence[Scene] = ()
    seed: int = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SceneSample:
        rng = random.Random(f"{self.seed}:{index}")
        while True:
            drawn = not self.annotated or rng.random() < DRAWN_RATE
            scene = draw_scene(rng) if drawn else rng.choice(self.annotated)
            if 0 < len(scene.objects) <= self.count:
                sample = make_sample(scene, self.questions, self.count, rng)
                if sample.conversations:
                    return sample


def make_sample(scene: Scene, questions: int, count: int, rng: random.Random) -> SceneSample:
    """Give a scene's objects scores, add unsure ones, and compose questions whose targets are among `count`."""
    unsure = _unsure_objects(scene, rng)
    scores = {category: LOWEST_SURE + abs(rng.gauss(0, SURE_SPREAD)) for category in _categories(scene.objects)}
    scores |= {item.category: -rng.uniform(LOWEST_SURE, -UNSURE) for item in unsure}
    objects = (*scene.objects, *unsure)
    candidates = ordered(
        [SceneCandidate(o.category, _moved(o.box, rng), scores[o.category], n) for n, o in enumerate(objects)], count
    )
    doubtful = frozenset(item.category for item in unsure)
    sure = Scene(scene.objects, scene.known - doubtful, scene.uncounted)
    named = Scene(objects, scene.known | doubtful, scene.uncounted)
    place = {candidate.number: at for at, candidate in enumerate(candidates)}
    conversations: list[Conversation] = []
    meant: list[tuple[int, ...]] = []
    for _ in range(ATTEMPTS * questions):
        if len(conversations) >= questions:
            break
        naming = rng.random() < NAMING_RATE
        weights: Mapping[str, float] = NAMING if naming else DEFAULT_WEIGHTS
        question = compose(named if naming else sure, rng, weights)
        if question is None or any(n not in place for turn in question.turns for one in turn.targets for n in one):
            continue
        for number, turn in enumerate(question.turns):
            blank = np.zeros((len(turn.targets), 1, 1), dtype=bool)
            conversations.append(Conversation(turn.question, turn.answer, blank, continues=number > 0))
            meant += [tuple(place[n] for n in one) for one in turn.targets]
    return SceneSample(tuple(candidates), tuple(conversations), tuple(meant), rng.getrandbits(32))


def ordered(rows: Sequence[SceneCandidate], count: int) -> list[SceneCandidate]:
    """Keep `count` candidates and order them as `Candidates` says."""
    surest = sorted(rows, key=lambda row: -row.score)[:count]
    return sorted(surest, key=lambda row: (-row.score, row.category, row.box[0] + row.box[2]))


def _unsure_objects(scene: Scene, rng: random.Random) -> list[SceneObject]:
    """Return one object for each of a few categories that may not be said of anything in the scene."""
    taken = _categories(scene.objects)
    pool = sorted(names() if rng.random() < ANY_NAME_RATE else COCO)
    found: list[SceneObject] = []
    for category in rng.sample(pool, rng.choice(UNSURE_COUNTS)):
        if category in taken or overlapping(category) & taken:
            continue
        width, height = rng.uniform(*UNSURE_SIDE), rng.uniform(*UNSURE_SIDE)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        found.append(SceneObject(category, (left, top, left + width, top + height)))
        taken.add(category)
    return found


def _categories(objects: Sequence[SceneObject]) -> set[str]:
    return {item.category for item in objects}


def _moved(box: Box, rng: random.Random) -> Box:
    """Move the corners of a box as a detector might."""
    width, height = box[2] - box[0], box[3] - box[1]
    left, top, right, bottom = (
        min(max(value + rng.gauss(0, BOX_NOISE) * side, 0.0), 1.0)
        for value, side in zip(box, (width, height, width, height), strict=True)
    )
    return left, top, right, bottom


@dataclass(frozen=True)
class SceneCollator:
    """Collate scenes to the keyword arguments of `SceneTraining.forward`.

    Args:
        processor: its image tokens are the candidates.
        count: K.
        names: N names that are marked in texts, as the model's configuration lists them.
    """

    processor: PixelLMProcessor
    count: int
    names: Sequence[str]

    def __call__(self, samples: Sequence[SceneSample]) -> dict[str, Tensor]:
        batch = self.processor([Sample(BLANK, sample.conversations) for sample in samples])
        size = (len(samples), self.count)
        words = torch.full((*size, NAME_TOKENS), -1)
        boxes, scores, valid = torch.zeros(*size, 4), torch.zeros(size), torch.zeros(size, dtype=torch.bool)
        for row, sample in enumerate(samples):
            for at, candidate in enumerate(sample.candidates):
                ids = self.processor.tokenizer.encode(f" {candidate.category}", add_special_tokens=False)[:NAME_TOKENS]
                words[row, at, : len(ids)] = torch.tensor(ids)
                boxes[row, at] = torch.tensor(candidate.box)
                scores[row, at], valid[row, at] = candidate.score, True
        targets = [one for sample in samples for one in sample.meant]
        meant = torch.zeros(len(targets), self.count, dtype=torch.bool)
        for row, one in enumerate(targets):
            meant[row, list(one)] = True
        assert batch.labels is not None
        # After its first token a codebook group is not written but given.
        labels = without_labels(batch.labels, self.processor.codebook_ids[1:])
        texts = {"input_ids": batch.input_ids, "segment_ids": batch.segment_ids, "labels": labels}
        read = {"names": words, "boxes": boxes, "scores": scores, "valid": valid, "meant": meant}
        return texts | read | {"conditioning": torch.stack([self._conditioning(sample) for sample in samples])}

    def _conditioning(self, sample: SceneSample) -> Tensor:
        """Return what `Mentions` reads of a scene: (2 · N,)."""
        own = Counter(candidate.category for candidate in sample.candidates)
        scores = {candidate.category: candidate.score for candidate in sample.candidates}
        draws = np.random.default_rng(sample.seed).random(len(self.names))
        spoken = [canonical(name) for name in self.names]
        counts = [
            -1 if draw < UNMARKED_RATES[name in own] else own[name] for name, draw in zip(spoken, draws, strict=True)
        ]
        return torch.tensor([*counts, *(scores.get(name, 0.0) for name in spoken)])


def label_weights(labels: Tensor) -> Tensor:
    """Return how much each label (B, T) counts: the first of an answer more, those that are ignored 0."""
    labelled = labels != IGNORE_INDEX
    first = labelled & ~F.pad(labelled[:, :-1], (1, 0))
    leading = sum(F.pad(first, (shift, 0))[:, : first.shape[1]] for shift in range(FIRST_TOKENS))
    return (1 + (FIRST_WEIGHT - 1) * leading) * labelled


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
        conditioning: Tensor,
        counts: LossCounts,
        loss_weights: MiniLossWeights,
    ) -> Output:
        """Compute the losses of text and targets.

        Args:
            input_ids: (B, T), whose image tokens are the candidates.
            segment_ids: (B, T).
            labels: (B, T).
            names: (B, K, W) token ids of the candidates' names, padded with -1.
            boxes: (B, K, 4) fractions of the image.
            scores: (B, K) logits.
            valid: bool (B, K).
            meant: bool (G, K).
            conditioning: (B, 2 · names), see `Mentions`.
            counts: `tokens` and `targets`.
            loss_weights: of the losses.
        """
        hidden, tokens, states, rows = self._read(input_ids, segment_ids, names, boxes, scores, valid, conditioning)
        head = self.model.get_output_embeddings()
        text = text_loss(head, hidden, labels, label_weights(labels)) / max(1, counts["tokens"])
        logits = self.model.point(states, tokens[rows])
        pointing = pointer_loss(logits.float(), meant, valid[rows]) / max(1, counts["targets"])
        return Output([], {"ce": loss_weights.ce * text, "pointer": loss_weights.pointer * pointing})

    def count_terms(self, labels: Tensor, meant: Tensor, input_ids: Tensor, **_batch: object) -> LossCounts:
        """Count what the losses of a batch are averaged over: `tokens`, `targets` and, for the speed, `images`."""
        tokens = int(label_weights(labels)[:, 1:].sum())
        return Counter(tokens=tokens, targets=len(meant), images=len(input_ids))

    @torch.no_grad()
    def centre_pointer(self, **batch: Tensor) -> None:
        """Let the model's pointer start around the states and candidates of a batch."""
        _, tokens, states, _ = self._read(**batch)
        groups = states.unflatten(0, (-1, len(self.model.config.codebook_ids)))
        assert self.model.pointer is not None
        self.model.pointer.centre_on(groups, tokens[batch["valid"]])

    def _read(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        names: Tensor,
        boxes: Tensor,
        scores: Tensor,
        valid: Tensor,
        conditioning: Tensor,
        **_batch: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return hidden states (B, T, D), candidates (B, K, D), group states (G·N, D), and each group's row (G,)."""
        model = self.model
        assert model.candidate_tokens is not None
        tokens = model.candidate_tokens(mean_embedding(model.get_input_embeddings(), names), boxes, scores)
        images = EncodedImages(tokens, valid, [], segment_ids.new_zeros(len(tokens), 2), conditioning)
        hidden, groups, states = model.text_states(images, input_ids, segment_ids)
        return hidden, tokens, states, groups[:, 0]
