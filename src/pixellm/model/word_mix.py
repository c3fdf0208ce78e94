"""Word mixing: a dense classifier's scores, mixed into the language model's own word embeddings.

Where the classifier sees a dog, the language model's image token and the decoder's features receive the embedding of
" dog": visual features that speak the model's language before anything is trained.

The same scores give each target a first guess, the prior: the map of the names that its codebook states resemble.

Shapes:  B images · T targets · S scales · V names · n tokens of a name · D LLM width
         C decoder width · g grid side
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.model.configuration import PixelLMConfig


class WordMix(nn.Module):
    """Holds the names as token ids, so that they follow the embeddings wherever training moves them."""

    name_ids: Tensor

    def __init__(self, config: PixelLMConfig) -> None:
        super().__init__()
        names = config.vocabulary_ids
        if len(names) != len(config.vision_config.vocabulary):
            raise ValueError(
                f"vocabulary_ids: expected one list for each of {len(config.vision_config.vocabulary)} names, "
                f"got {len(names)}."
            )
        longest = max(len(ids) for ids in names)
        self.register_buffer("name_ids", torch.tensor([[*ids, *[-1] * (longest - len(ids))] for ids in names]))
        self.token_gain = nn.Parameter(torch.ones(()))
        self.to_names = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)
        nn.init.zeros_(self.to_names.weight)  # at the start every name fits as well as any other
        nn.init.zeros_(self.to_names.bias)
        self.prior_weight = nn.Parameter(torch.ones(()))
        self.to_pixels = nn.Linear(config.text_config.hidden_size, config.decoder_dim, bias=False)

    def words(self, embedding: nn.Module) -> Tensor:
        """Mean embedding (V, D) of each name's tokens, less what all names share: faint scores of many names cancel."""
        present = (self.name_ids >= 0)[..., None]
        words = (embedding(self.name_ids.clamp(min=0)) * present).sum(dim=1) / present.sum(dim=1)
        return words - words.mean(dim=0)

    def to_tokens(self, class_logits: Tensor, words: Tensor, grid: int) -> Tensor:
        """Image tokens (B, g·g, D): small things count, so each cell takes a name's strongest presence in it."""
        presence = F.adaptive_max_pool2d(_presence(class_logits), grid).flatten(2)
        return self.token_gain * torch.einsum("bvp,vd->bpd", presence, words)

    def to_map(self, class_logits: Tensor, words: Tensor, grid: int) -> Tensor:
        """Decoder features (B, C, g, g)."""
        presence = F.interpolate(_presence(class_logits), (grid, grid), mode="area")
        return torch.einsum("bvxy,vc->bcxy", presence, self.to_pixels(words))

    def name_scores(self, states: Tensor, words: Tensor) -> Tensor:
        """How well each name (V) fits each target, by the first state of its group: (T, D) → (T, V)."""
        return self.to_names(states) @ word_directions(words.to(states.dtype)).T

    def prior(self, name_scores: Tensor, class_logits: Tensor, image_index: Tensor) -> Tensor:
        """Where the dense classifier sees what each target is called: logits (T, h, w)."""
        shares = name_scores.softmax(dim=-1).to(class_logits.dtype)
        maps = [
            torch.einsum("tv,vxy->txy", shares[image_index == image], logits)
            for image, logits in enumerate(class_logits)
        ]
        order = torch.cat([(image_index == image).nonzero()[:, 0] for image in range(len(class_logits))])
        return torch.cat(maps)[order.argsort()]


def word_directions(words: Tensor) -> Tensor:
    """Embeddings (V, D) scaled to a root mean square of 1."""
    return F.normalize(words, dim=-1) * words.shape[-1] ** 0.5


def _presence(class_logits: Tensor) -> Tensor:
    """Squared probabilities: the faint scores of the many names that are absent would outweigh the few present."""
    return class_logits.sigmoid().square()
