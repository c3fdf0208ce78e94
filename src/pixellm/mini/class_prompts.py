"""Class prompts: categories speak to the pixel decoder through the language model's own word embeddings.

Where the dense classifier scores "dog" high, the decoder's features receive the embedding of " dog". A target that
means categories prompts the decoder with their embeddings, and the classifier's map of them is the first estimate of
its mask.

Shapes:  B images · G targets · S scales · V categories · D LLM width · C decoder width · h, w, g grid sides
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.mini.configuration import MiniConfig

UNKNOWN_BIAS = -30.0  # of the mask of a target without a candidate, until images teach what it looks like


class ClassPrompts(nn.Module):
    """Category names as token ids, so that they follow the embeddings when these train, and the maps around them."""

    name_ids: Tensor

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        count, width = len(config.vision_config.vocabulary), config.text_config.hidden_size
        if len(config.vocabulary_ids) < count or not all(config.vocabulary_ids):
            raise ValueError(
                f"vocabulary_ids: expected a list of forms for each of {count} categories, got "
                f"{len([forms for forms in config.vocabulary_ids if forms])}."
            )
        names = [forms[0] for forms in config.vocabulary_ids[:count]]
        longest = max(map(len, names), default=1)
        self.register_buffer("name_ids", torch.tensor([[*ids, *[-1] * (longest - len(ids))] for ids in names]))
        self.num_scales = config.num_scales
        self.to_pixels = nn.Linear(width, config.decoder_dim, bias=False)
        self.to_prompts = nn.Linear(width, config.num_scales * config.decoder_dim, bias=False)
        self.prior_weight = nn.Parameter(torch.ones(()))
        self.unknown_bias = nn.Parameter(torch.tensor(UNKNOWN_BIAS))

    def words(self, embedding: nn.Module) -> Tensor:
        """Return the mean embedding (V, D) of each category's tokens."""
        return mean_embedding(embedding, self.name_ids)

    def to_map(self, class_logits: Tensor, words: Tensor, grid: int) -> Tensor:
        """Return what to add to decoder features (B, C, g, g)."""
        # Squared, else low scores of the many absent categories would outweigh the few present.
        scores = F.interpolate(class_logits.sigmoid().square(), (grid, grid), mode="area")
        return torch.einsum("bvxy,vc->bcxy", scores, self.to_pixels(centred(words)))

    def prompts(self, shares: Tensor, words: Tensor) -> Tensor:
        """Return the decoder's prompts for mixtures of categories: shares (G, V) → (G, S, C)."""
        prompts = self.to_prompts(word_directions(words)).to(shares.dtype)
        return (shares @ prompts).unflatten(1, (self.num_scales, -1))

    def prior(self, shares: Tensor, class_logits: Tensor, image_index: Tensor) -> Tensor:
        """Return the classifier's map of each target's mixture of categories: shares (G, V) → logits (G, h, w)."""
        if len(class_logits) == 1:
            return torch.einsum("tv,vxy->txy", shares, class_logits[0])
        maps = [
            torch.einsum("tv,vxy->txy", shares[image_index == image], logits)
            for image, logits in enumerate(class_logits)
        ]
        order = torch.cat([(image_index == image).nonzero()[:, 0] for image in range(len(class_logits))])
        return torch.cat(maps)[order.argsort()]


def mean_embedding(embedding: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean embedding (…, D) of token ids (…, T), of which -1 is padding."""
    present = (ids >= 0)[..., None]
    return (embedding(ids.clamp(min=0)) * present).sum(dim=-2) / present.sum(dim=-2).clamp(min=1)


def centred(words: Tensor) -> Tensor:
    """Subtract the mean of all embeddings (V, D), so that low scores of many categories cancel."""
    return words - words.mean(dim=0)


def word_directions(words: Tensor) -> Tensor:
    """Scale centred embeddings (V, D) to a root mean square of 1."""
    return F.normalize(centred(words), dim=-1) * words.shape[-1] ** 0.5
