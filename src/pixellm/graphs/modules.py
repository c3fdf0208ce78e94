"""Parts of a PixelLM as modules of tensors alone, which torch.onnx exports: encode → language model → masks → refine.

What a variant keeps of an image travels from the first to the last graph as named tensors; no runtime has to know it.

Shapes:  R rows · W ids of a step · P keys so far · D LLM width · N image tokens · G group tokens · L layers
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from pixellm.mini.refiner import Refiner, RegionInputs, region_features
from pixellm.model.modeling import IMAGE_TOKEN_ID, PixelLMForConditionalGeneration
from pixellm.model.states import EncodedImages

READ_BY_LANGUAGE = ("tokens", "token_valid", "conditioning")  # of `EncodedImages`
SIZE = "resized_hw"  # of `EncodedImages`: what is read, too


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in dataclasses and lists, each with its place: `objects.detections.boxes`, `maps.0`."""
    if isinstance(value, Tensor):
        yield name, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from named_tensors(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from named_tensors(item, f"{name}.{index}")


def with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a copy of `value` with other tensors in the order of `named_tensors`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: with_tensors(getattr(value, field.name), tensors) for field in fields(value)}
        return replace(value, **own)
    return [with_tensors(item, tensors) for item in value] if isinstance(value, list | tuple) else value


class EncodeGraph(nn.Module):
    """(1, 3, S, S) pixels and (1, 2) `resized_hw` → the tensors of `EncodedImages` with the names `given`."""

    def __init__(self, model: PixelLMForConditionalGeneration, given: Sequence[str]) -> None:
        super().__init__()
        self.model, self.given = model, given

    def forward(self, pixel_values: Tensor, resized_hw: Tensor) -> tuple[Tensor, ...]:
        images = self.model.encode_images(pixel_values, resized_hw)
        return tuple(tensor for name, tensor in named_tensors(images) if name in self.given)


class MaskGraph(nn.Module):
    """States (G, D) of a group and the tensors of its image → logits (1, 2g, 2g), and a presence score (1,)."""

    def __init__(self, model: PixelLMForConditionalGeneration, like: EncodedImages) -> None:
        super().__init__()
        self.model, self.like = model, like

    def forward(self, states: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        images = with_tensors(self.like, iter(tensors))
        row = torch.zeros(1, dtype=torch.long)
        logits = self.model.decode_masks(images, states, row)
        presence = self.model.presence_scores(images, states, row, logits)
        return (logits,) if presence is None else (logits, presence)


class RefineGraph(nn.Module):
    """A `PromptedRegion` and the maps (1, c, h, w) of its image, cropped to it → logits (r, r) of the new mask.

    `dense`, `points` and `labels` have a dimension of 1 before those of `PromptedRegion`.
    """

    def __init__(self, refiner: Refiner) -> None:
        super().__init__()
        self.refiner = refiner

    def forward(self, dense: Tensor, points: Tensor, labels: Tensor, boxes: Tensor, *maps: Tensor) -> Tensor:
        fine, coarse = region_features(maps, boxes)
        return self.refiner(RegionInputs(dense, fine, coarse, points, labels))[0]


class LanguageGraph(nn.Module):
    """A step of a Llama: prompt, token or codebook group, with explicit keys and values."""

    def __init__(self, model: PixelLMForConditionalGeneration) -> None:
        super().__init__()
        if not isinstance(model.language_model, LlamaForCausalLM):
            raise ValueError(
                f"expected a language model of the Llama family, got {type(model.language_model).__name__}. Only "
                "Llama's layers can be exported so far."
            )
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        earlier_ids: Tensor,
        image_tokens: Tensor,
        conditioning: Tensor,
        bias: Tensor,
        position_ids: Tensor,
        last: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run a step.

        Args:
            input_ids: (R, W), `IMAGE_TOKEN_ID` where an image token stands.
            earlier_ids: (R, E), the ids before them.
            image_tokens: (R, N, D), N ≥ 1.
            conditioning: (R, X), see `EncodedImages`; unused without.
            bias: (R, 1, W, P + W), what is added to the scores of attention.
            position_ids: (R, W).
            last: (R,) place in W whose next token is wanted.
            past: keys and values (R, heads, P, width of one) of each layer.

        Returns:
            logits (R, V), what the codebook reads (R, W, D), and keys and values with those of the step.
        """
        llm = self.model.language_model.model
        is_image = input_ids == IMAGE_TOKEN_ID
        words = llm.embed_tokens(input_ids.masked_fill(is_image, 0))
        order = (is_image.cumsum(dim=1) - 1).clamp(min=0)
        shown = image_tokens.gather(1, order[..., None].expand(-1, -1, image_tokens.shape[-1]))
        words = torch.where(is_image[..., None], shown, words)
        hidden = self.model.llm_inputs(words, input_ids, conditioning, earlier_ids)
        rotation = llm.rotary_emb(hidden, position_ids)
        present: list[Tensor] = []
        for index, layer in enumerate(llm.layers):
            attended, *cache = _attention(
                layer.self_attn, _norm(layer.input_layernorm, hidden), rotation, bias, past[2 * index : 2 * index + 2]
            )
            hidden = hidden + attended
            hidden = hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
            present += cache
        hidden = _norm(llm.norm, hidden)
        final = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
        logits = self.model.get_output_embeddings()(final)
        return logits, self.model.codebook_inputs(hidden, words), *present


def _attention(
    layer: nn.Module, hidden: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor, past: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a layer's attention reads (R, W, D), and its keys and values (R, heads, P + W, width of one)."""
    width = layer.head_dim
    query, key, value = (
        projection(hidden).unflatten(-1, (-1, width)).transpose(1, 2)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, *rotation)
    key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    # R, heads with keys, queries of each, W, width: no key is repeated.
    scores = query.unflatten(1, (key.shape[1], -1)) @ key[:, :, None].mT * layer.scaling + bias[:, None]
    read = (scores.softmax(dim=-1) @ value[:, :, None]).flatten(1, 2)
    return layer.o_proj(read.transpose(1, 2).flatten(2)), key, value


def _norm(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Apply a LlamaRMSNorm, as the one operator that onnxruntime has for it."""
    if not torch.compiler.is_exporting():
        return layer(hidden)
    return torch.onnx.ops.symbolic(
        "SimplifiedLayerNormalization",
        (hidden, layer.weight),
        {"axis": -1, "epsilon": float(layer.variance_epsilon)},
        dtype=hidden.dtype,
        shape=hidden.shape,
        version=1,
    )
