"""Ways to one answer, from the photograph to masks at its size; each says when its first text and mask were there.

Shapes:  T targets · D LLM width
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.products import Products
from benchmarks.speed import released_decoder
from benchmarks.speed.task import Script, Task
from pixellm.imaging.postprocess import binarize
from pixellm.inference import cuda_graphs
from pixellm.model.packing import additive
from pixellm.model.states import EncodedImages
from pixellm.types import Done, Target, TextPiece

SAMPLES = 6  # lengths at which the released way is timed; what lies between is interpolated


@dataclass(frozen=True)
class Times:
    """Seconds from the question to the first text, the first mask (None: no target), and the end."""

    first_text: float
    first_mask: float | None
    end: float


def ours(task: Task) -> Times:
    """`Predictor.stream`."""
    began, seen, found = time.perf_counter(), {}, 0
    task.predictor.set_image(task.photograph)
    for event in task.predictor.stream(task.question, **task.options):
        seen.setdefault(type(event), time.perf_counter() - began)
        found += isinstance(event, Target)
    assert found == task.targets
    return Times(seen[TextPiece], seen.get(Target), seen[Done])


@torch.inference_mode()
def released(task: Task) -> Times:
    """As the released code: for every token the image is encoded and the whole sequence run, without a cache.

    It is timed at `SAMPLES` lengths of the answer; the tokens between them are interpolated.
    """
    model, processor = task.predictor.model, task.predictor.processor
    pixels = _pixels(task)
    before = [*processor.prefix_ids, *task.prompt]

    def token(length: int) -> tuple[EncodedImages, Tensor]:
        ids = torch.tensor([[*before, *task.answer[:length]]], device=model.device)
        images = model.encode_images(*pixels)
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()[None]
        embeddings = model.embed(ids, images)
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        states = model.hidden_states(embeddings, additive(causal, embeddings.dtype)[:, None], positions)
        model.get_output_embeddings()(states[:, -1]).argmax()
        return images, states

    lengths = sorted({round(share * (len(task.answer) - 1)) for share in np.linspace(0, 1, SAMPLES)})
    seconds = [seconds_of(lambda length=length: token(length)) for length in lengths]
    text = float(np.interp(range(len(task.answer)), lengths, seconds).sum())
    _, states = token(len(task.answer))
    images = released_decoder.encode(model, *pixels)
    masks = seconds_of(lambda: _released_masks(task, images, states[0, len(before) :]))
    return Times(seconds[0], text + masks if task.targets else None, text + masks)


@torch.inference_mode()
def cached(task: Task) -> Times:
    """Transformers' `generate` with its cache: the image once, then one token a step; masks at the end."""
    began = time.perf_counter()
    model, processor = task.predictor.model, task.predictor.processor
    images = model.encode_images(*_pixels(task))
    ids = torch.tensor([[*processor.prefix_ids, *task.prompt]], device=model.device)
    first: list[float] = []

    def watched(seen: Tensor, scores: Tensor) -> Tensor:
        chosen = Script(0, task.answer)(seen, scores)
        if not first:
            first.append(_since(began))
        return chosen

    written: Any = model.language_model.generate(  # pyright: ignore[reportCallIssue]
        inputs_embeds=model.embed(ids, images),
        attention_mask=torch.ones_like(ids),
        max_new_tokens=len(task.answer),
        do_sample=False,
        eos_token_id=processor.eos_ids,
        pad_token_id=0,
        logits_processor=[watched],
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    assert written.sequences[0].tolist() == task.answer
    if not task.targets:
        return Times(first[0], None, _since(began))
    states = torch.stack([step[-1][0, -1] for step in written.hidden_states[1:]])  # of every token but the end
    _masks(task, images, _at_groups(task, states))
    end = _since(began)
    return Times(first[0], end, end)


def products(task: Task) -> Products:
    """Those of `ours`: the image once, its prefix once, a pass for each text token and each group, the masks."""
    # What a graph does nobody sees.
    with (
        patch.object(cuda_graphs, "recordable", return_value=False),
        Products(task.predictor.model.parameters()) as noted,
    ):
        ours(task)
    return noted


def _pixels(task: Task) -> tuple[Tensor, Tensor]:
    model = task.predictor.model
    inputs = task.predictor.processor.images([task.photograph])
    return inputs["pixel_values"].to(model.device, model.dtype), inputs["resized_hw"].to(model.device)


def _at_groups(task: Task, states: Tensor) -> Tensor:
    """Of the states (tokens, D) of an answer's ids, those of its codebook groups."""
    group = set(task.predictor.processor.codebook_ids)
    return states[[at for at, token in enumerate(task.answer) if token in group]]


def _masks(task: Task, images: EncodedImages, states: Tensor) -> None:
    model = task.predictor.model
    index = torch.zeros(task.targets, dtype=torch.long, device=states.device)
    _restore(task, model.decode_masks(images, states, index), images)


def _released_masks(task: Task, images: EncodedImages, states: Tensor) -> None:
    if not task.targets:
        return
    logits = released_decoder.decode(task.predictor.model, images, _at_groups(task, states))
    _restore(task, logits, images)


def _restore(task: Task, logits: Tensor, images: EncodedImages) -> None:
    height, width = images.resized_hw[0].tolist()
    size = (task.photograph.height, task.photograph.width)
    list(binarize(logits, (height, width), size))


def seconds_of(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return _since(began)


def _since(began: float) -> float:
    """Seconds, once the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
