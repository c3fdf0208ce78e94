"""Bytes of a training step, counted over shapes alone: the model's own forward and backward pass.

Tensors without values that say they are on a CPU (`FakeTensorMode`) go through the same code as real ones, so what
autocast converts, what gradient checkpointing computes again and what fused attention keeps is counted, not guessed.

Shapes:  B images · T tokens of a row · D LLM width · M masks of an image · S scales
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel

from pixellm.backbones import BackboneConfig
from pixellm.backbones.canvas import PIXELS_PER_CELL
from pixellm.backbones.modeling import BackboneFeatures, stack_images
from pixellm.cost.counting import PeakMemory, quantised_bytes
from pixellm.imaging import geometry
from pixellm.inference.quantization import FrozenLinear, Quantize, quantised_layers
from pixellm.model.losses import mask_bce, mask_dice, refinement_weight
from pixellm.model.states import EncodedImages
from pixellm.model.vision import VisionFeatures
from pixellm.train.model_kind import ModelKind, has_tied_embeddings
from pixellm.train.recipe import AdapterConfig, TrainingStage
from pixellm.train.run import prepare

FP32 = 4


@dataclass(frozen=True)
class RowLoad:
    """Sizes of one image with its conversations.

    Args:
        tokens: T, image and text.
        labels: tokens of them that are learned.
        masks: M, of the answers.
        answers: that have masks.
        image_hw: height and width of the masks.
        vision_bytes: peak of encoding the image, nothing of which is kept for a gradient.
    """

    tokens: int
    labels: int
    masks: int
    answers: int
    image_hw: tuple[int, int]
    vision_bytes: int = 0


@dataclass(frozen=True)
class StepMemory:
    """Bytes while a model trains.

    Args:
        weights: of each part, as they are held: quantised, half or full precision.
        trained: elements that train, each with a gradient and two moments in fp32.
        passes: peak of what forward and backward passes hold, gradients among it.
        logits: peak of the next-token scores and their loss, which is a part of `passes`.
    """

    weights: dict[str, int]
    trained: int
    passes: int
    logits: int


class _Shapes(FrozenLinear):
    """A quantised layer without values; what it holds, keeps and makes is as large as a real one's."""

    def __init__(self, layer: nn.Linear, quantize: Quantize) -> None:
        super().__init__(layer)
        del self.weight
        size = quantised_bytes(layer, quantize)
        self.register_buffer("weight", torch.empty(size, dtype=torch.uint8, device="meta"), persistent=False)

    def product(self, rows: Tensor) -> Tensor:
        return rows.new_empty(len(rows), self.out_features)

    def product_of_gradient(self, gradient: Tensor) -> Tensor:
        total = gradient.new_empty(len(gradient), self.in_features, dtype=torch.float32)
        return total.to(gradient.dtype)


def step_memory(
    config: Any, kind: ModelKind, stage: TrainingStage, adapters: AdapterConfig, load: RowLoad
) -> StepMemory:
    """Count the memory of training a model with a configuration.

    Args:
        config: of a PixelLM of the paper's assembly, or of one on a vision-language model.
        kind: of the model.
        stage: its `device_batch_size` rows are taken at once, each of them like `load`.
        adapters: see `AdapterConfig`.
        load: the largest row.
    """
    model = _model(config, kind, stage, adapters)
    scales = _scale_shapes(model)
    weights = {name: _bytes(part) for name, part in model.named_children()}
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    more = 2 if stage.batch_size > stage.device_batch_size else 1  # a second pass meets the gradients of the first
    with _without_values(model):
        with PeakMemory() as passes:
            for _ in range(more):
                with torch.autocast("cpu", torch.bfloat16, enabled=stage.bf16):
                    loss = _loss(model, load, stage, scales)
                loss.backward()
                del loss
        with PeakMemory() as logits:
            states = torch.zeros(1, config.text_config.hidden_size, dtype=model.get_output_embeddings().weight.dtype)
            with torch.autocast("cpu", torch.bfloat16, enabled=stage.bf16):
                labels = stage.device_batch_size * load.labels
                _text_loss(model, states.expand(labels, -1).requires_grad_()).backward()
    at_once = 1 if isinstance(config, BackboneConfig) else stage.device_batch_size  # images in the tower
    return StepMemory(weights, trained, max(passes.peak, at_once * load.vision_bytes), logits.peak)


def _model(config: Any, kind: ModelKind, stage: TrainingStage, adapters: AdapterConfig) -> Any:
    """Build the model that trains on the meta device."""
    with torch.device("meta"):
        model: Any = AutoModel.from_config(config)
    if adapters.quantize:
        kind.text_module(model).to(torch.bfloat16 if stage.bf16 else torch.float32)
        for name, layer in quantised_layers(model.text_model).items():
            model.text_model.set_submodule(name, _Shapes(layer, adapters.quantize))
    prepare(model, kind, stage, adapters)
    return model.train()


def _bytes(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers, as they are held."""
    held = {id(tensor): tensor.nbytes for tensor in (*module.parameters(), *module.buffers())}
    return sum(held.values())


@contextmanager
def _without_values(model: Any) -> Iterator[None]:
    """Move a model of the meta device to a CPU that computes no values, for what runs inside."""
    tied = has_tied_embeddings(model)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad():
        model.to_empty(device="cpu")
        if tied:
            model.get_output_embeddings().weight = model.get_input_embeddings().weight
        yield


def _scale_shapes(model: Any) -> list[tuple[int, ...]]:
    """Shapes (C, h, w) of the features that the pixel decoder gets of an image; the model is on the meta device."""
    config = model.config
    if isinstance(config, BackboneConfig):
        return [(model.pixel_projector[0].in_features, config.mask_grid, config.mask_grid)] * config.num_scales
    size = config.vision_config.image_size
    with torch.no_grad(), torch.device("meta"):
        scales = model.vision_encoder(torch.zeros(1, 3, size, size), torch.full((1, 2), size)).scales
    return [tuple(map_.shape[1:]) for map_ in scales]


def _loss(model: Any, load: RowLoad, stage: TrainingStage, scales: Sequence[tuple[int, ...]]) -> Tensor:
    """Run all parts of a step that take memory for a gradient, as the models' `forward_states` do."""
    config, count = model.config, stage.device_batch_size
    images = _images(model, count, scales)
    hidden = _hidden_states(model, load, count)
    loss = _text_loss(model, hidden[:, -load.labels :].flatten(0, 1))
    if not load.masks:
        return loss
    group = len(config.codebook_ids)
    rows = torch.arange(count).repeat_interleave(load.masks)
    positions = torch.arange(load.masks * group).expand(count, -1) % load.tokens
    states = hidden[torch.arange(count)[:, None], positions].flatten(0, 1)
    logits = model.decode_masks(images, states, rows)
    return loss + torch.stack([_mask_loss(model, part, load) for part in logits.split(load.masks)]).sum()


def _images(model: Any, count: int, scales: Sequence[tuple[int, ...]]) -> EncodedImages:
    """Encode features of a frozen tower for the pixel decoder: those of a batch at once, or image by image."""
    backbone = isinstance(model.config, BackboneConfig)
    dtype = model.backbone.dtype if backbone else torch.float32

    def maps(rows: int) -> list[Tensor]:
        features = VisionFeatures([torch.zeros(rows, *shape, dtype=dtype) for shape in scales])
        return model.pixel_decoder.prepare(model.neck_maps(features))

    if backbone:
        return stack_images([BackboneFeatures(None, maps(1), torch.zeros(1, 2)) for _ in range(count)])
    none = torch.zeros(count, 0)
    return EncodedImages(none[..., None], none.bool(), maps(count), none)


def _hidden_states(model: Any, load: RowLoad, count: int) -> Tensor:
    """States (B, T, D) of the language model: of a batch at once, or row by row as a vision-language model does."""
    if isinstance(model.config, BackboneConfig):
        return torch.cat([_states_of(model, load, 1) for _ in range(count)])
    return _states_of(model, load, count)


def _states_of(model: Any, load: RowLoad, count: int) -> Tensor:
    ids = torch.zeros(count, load.tokens, dtype=torch.long)
    embeddings = model.get_input_embeddings()(ids)
    is_image = torch.zeros(count, load.tokens, 1, dtype=torch.bool)
    embeddings = embeddings.masked_scatter(is_image, torch.zeros_like(embeddings, requires_grad=False))
    bias = torch.zeros(count, 1, load.tokens, load.tokens, dtype=embeddings.dtype)
    return model.hidden_states(embeddings, bias, torch.zeros(count, load.tokens, dtype=torch.long))


def _text_loss(model: Any, states: Tensor) -> Tensor:
    """Cross-entropy at so many positions (N, D), as `model.losses.text_loss`."""
    logits = model.get_output_embeddings()(states).float()
    return F.cross_entropy(logits, torch.zeros(len(states), dtype=torch.long), reduction="sum")


def _mask_loss(model: Any, logits: Tensor, load: RowLoad) -> Tensor:
    """Losses of one image's masks, as `pixellm.model.losses.mask_losses`."""
    config, (height, width) = model.config, load.image_hw
    backbone = isinstance(config, BackboneConfig)
    side = config.mask_grid * PIXELS_PER_CELL if backbone else config.vision_config.image_size
    restored = geometry.restore(logits, geometry.resized_hw(height, width, side), load.image_hw)
    counted, target = torch.ones_like(restored), torch.zeros(restored.shape, dtype=torch.bool)
    losses = []
    for rows in torch.arange(load.masks).chunk(max(1, load.answers)):
        weight = refinement_weight(restored[rows], 2.0)
        losses.append(mask_bce(restored[rows], target[rows], weight * counted[rows]))
    return torch.stack([*losses, mask_dice(restored, target, counted)]).sum()
