"""Decoder: queries attend to the image where their masks are, to one another and to the words, and become masks.

Each layer is masked cross-attention → self-attention → FFN; `attention_table` masks the self-attention. The image's
keys and values are projected once per image, not per phrase.

Shapes:  P phrases · I images · Q queries of a group · T tokens · C width · h, w size of masks · g side of a level
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.baselines.seem.configuration import SeemConfig
from pixellm.baselines.seem.pixel_decoder import ImageFeatures, Level, self_attention_layer
from pixellm.model.pixel_decoder import MLP


@dataclass
class DecoderOutput:
    """Masks and embeddings of the queries after a layer.

    Args:
        mask_logits: (P, Q, h, w) over the padded square.
        vectors: (P, Q, C), to be compared with embeddings of phrases.
    """

    mask_logits: Tensor
    vectors: Tensor


def attention_table(num_objects: int, num_grounding: int, token_valid: Tensor) -> Tensor:
    """Return the self-attention mask: object queries attend to one another only; grounding queries and words likewise.

    Args:
        num_objects: object queries, which come first.
        num_grounding: grounding queries, which come next; then the words.
        token_valid: bool (P, T), False for padding, which is masked for all.

    Returns:
        bool (P, 1, N, N) over all states of a phrase's row, True where the first attends to the second.
    """
    valid = F.pad(token_valid, (num_objects + num_grounding, 0), value=True)
    is_object = torch.arange(valid.shape[1], device=valid.device) < num_objects
    same_group = is_object[:, None] == is_object[None, :]
    return (same_group & valid[:, None, :])[:, None]


class MaskedCrossAttention(nn.Module):
    """Cross-attention of the queries to one level of their image, each where its mask was."""

    def __init__(self, config: SeemConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, positions: Tensor, level: Level, image_index: Tensor, seen: Tensor) -> Tensor:
        """Queries (P, Q, C) with positions (Q, C); `seen` is bool (P, Q, g·g)."""
        keys = self._heads(self.k_proj(level.tokens + level.positions)).index_select(0, image_index)
        values = self._heads(self.v_proj(level.tokens)).index_select(0, image_index)
        heads = self._heads(self.q_proj(queries + positions))
        attended = F.scaled_dot_product_attention(heads, keys, values, attn_mask=seen[:, None])
        return self.norm(queries + self.o_proj(attended.transpose(1, 2).flatten(2)))

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class SeemLayer(nn.Module):
    def __init__(self, config: SeemConfig) -> None:
        super().__init__()
        self.cross_attention = MaskedCrossAttention(config)
        self.self_attention = self_attention_layer(config)


class SeemDecoder(nn.Module):
    def __init__(self, config: SeemConfig) -> None:
        super().__init__()
        self.num_queries = config.num_queries
        self.query_content = nn.Embedding(config.num_queries, config.width)
        self.query_position = nn.Embedding(config.num_queries, config.width)
        self.level_embed = nn.Embedding(len(config.level_grids), config.width)
        self.layers = nn.ModuleList(SeemLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.width)
        self.mask_embed = MLP(config.width, config.width)
        self.class_embed = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self, images: ImageFeatures, tokens: Tensor, token_valid: Tensor, image_index: Tensor, objects: bool = False
    ) -> list[DecoderOutput]:
        """Decode one row for each phrase, so that phrases are independent.

        Args:
            images: of I images.
            tokens: (P, T, C) the words.
            token_valid: bool (P, T), False for padding.
            image_index: (P,) the image of each phrase.
            objects: whether the object queries are decoded too, before their grounding copies, which don't attend to
                them and so are the same without.

        Returns:
            Outputs of the Q grounding queries, with `objects` of 2Q queries, before the first layer and after each.
        """
        groups, rows = 1 + objects, len(tokens)
        queries = self.query_content.weight.repeat(groups, 1).expand(rows, -1, -1)
        positions = self.query_position.weight.repeat(groups, 1)
        table = attention_table(self.num_queries * objects, self.num_queries, token_valid)
        all_positions = F.pad(positions, (0, 0, 0, tokens.shape[1]))[None]  # the words' own states hold their positions
        levels = [
            Level(level.tokens + embedding, level.positions, level.valid, level.grid)
            for level, embedding in zip(images.levels, self.level_embed.weight, strict=True)
        ]
        predictions = [self._predict(queries, images, image_index)]
        for number, layer in enumerate(self.layers):
            level = levels[number % len(levels)]
            seen = focus(predictions[-1].mask_logits, level, image_index)
            queries = layer.cross_attention(queries, positions, level, image_index, seen)
            states = layer.self_attention(torch.cat([queries, tokens], dim=1), table, all_positions)
            queries, tokens = states.split([queries.shape[1], tokens.shape[1]], dim=1)
            predictions.append(self._predict(queries, images, image_index))
        return predictions

    def _predict(self, queries: Tensor, images: ImageFeatures, image_index: Tensor) -> DecoderOutput:
        queries = self.norm(queries)
        features = images.mask_features.index_select(0, image_index)
        masks = torch.bmm(self.mask_embed(queries), features.flatten(2)).unflatten(2, features.shape[-2:])
        return DecoderOutput(masks, self.class_embed(queries))


@torch.no_grad()
def focus(mask_logits: Tensor, level: Level, image_index: Tensor) -> Tensor:
    """Return the cells of a level that each query attends to: inside its mask (P, Q, h, w), or all if that is empty.

    Returns:
        bool (P, Q, g·g)
    """
    resized = F.interpolate(mask_logits.float(), (level.grid, level.grid), mode="bilinear", align_corners=False)
    valid = level.valid.index_select(0, image_index)[:, None]
    inside = (resized.flatten(2) >= 0) & valid
    return torch.where(inside.any(dim=2, keepdim=True), inside, valid)
