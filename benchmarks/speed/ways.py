"""Ways to one answer, from the photograph to masks at its size; each says when its first text and mask were there.

Shapes:  T targets · D LLM width
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from benchmarks.speed.task import Script, Task
from pixellm.binarize import binarize
from pixellm.model.modeling import EncodedImages, additive
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
    began, seen = time.perf_counter(), {}
    task.predictor.set_image(task.photograph)
    for event in task.predictor.stream(task.question, **task.options):
        seen.setdefault(type(event), time.perf_counter() - began)
        last = event
    assert isinstance(last, Done)
    assert len(last.answer.targets) == task.targets
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
    seconds = [_timed(lambda length=length: token(length)) for length in lengths]
    text = float(np.interp(range(len(task.answer)), lengths, seconds).sum())
    images, states = token(len(task.answer))
    masks = _timed(lambda: _released_masks(task, images, states[0, len(before) :]))
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
        first.append(time.perf_counter() - began)
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
        return Times(first[0], None, time.perf_counter() - began)
    states = torch.stack([step[-1][0, -1] for step in written.hidden_states[1:]])  # of every token but the end
    _masks(task, images, _at_groups(task, states))
    end = time.perf_counter() - began
    return Times(first[0], end, end)


class Products(TorchDispatchMode):
    """Notes the matrix products and convolutions of an answer, to make them again, and nothing else.

    Weights stay themselves, so that each is read from memory as often as the answer reads it. All other operands are
    random numbers of the same shapes, shared where shapes are the same.
    """

    KINDS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "linear", "_scaled_dot_product")

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self._pool: dict[tuple, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name.startswith(self.KINDS):
            kept, named = tree_map(self._stand_in, (args, kwargs))
            self.calls.append(lambda: func(*kept, **named))
        return func(*args, **kwargs)

    def _stand_in(self, value: object) -> object:
        if not isinstance(value, Tensor) or value.untyped_storage().data_ptr() in self._weights:
            return value
        key = (value.dtype, value.shape, value.stride())
        if key not in self._pool:
            self._pool[key] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
            self._pool[key].normal_()
        return self._pool[key]

    @torch.inference_mode()
    def run(self) -> float:
        """Seconds that the products take."""
        return _timed(lambda: [call() for call in self.calls])


def products(task: Task) -> Products:
    """Those of `ours`: the image once, its prefix once, a pass for each text token and each group, the masks."""
    with Products(list(task.predictor.model.parameters())) as noted:
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
    _restore(task, model.decode_masks(images, states, index)[0], images)


def _released_masks(task: Task, images: EncodedImages, states: Tensor) -> None:
    """The decoder's features are brought to their grids for each target."""
    if not task.targets:
        return
    logits = per_target(task, images, _at_groups(task, states), task.targets)
    _restore(task, logits, images)


def per_target(task: Task, images: EncodedImages, states: Tensor, targets: int) -> Tensor:
    """Logits of so many targets as the released code has them: what is the image's alone is computed for each."""
    decoder, model = task.predictor.model.pixel_decoder, task.predictor.model
    maps = decoder.prepare([map_.expand(targets, -1, -1, -1) for map_ in images.neck])
    own = [map_.expand(targets, -1, -1, -1) if len(map_) == 1 else map_ for map_ in maps]
    prompts = model.codebook(states.to(own[0].dtype))
    return decoder(own, prompts, torch.arange(targets, device=states.device))[0]


def _restore(task: Task, logits: Tensor, images: EncodedImages) -> None:
    height, width = images.resized_hw[0].tolist()
    size = (task.photograph.height, task.photograph.width)
    list(binarize(logits, (height, width), size))


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
