"""Word mixing: a dense classifier's scores as mixtures of the LLM's own word embeddings.

Where the classifier scores "dog" high, the LLM's image token and the decoder's features receive the embedding of
" dog", which the LLM understands before anything is trained.

The most probable categories of the whole image follow as tags, one token each, with their presence scores; where a
text mentions a category, its last token carries the same score.

The same scores give each target a class prior: the classifier's map of the categories that its codebook states
resemble. The decoder's prompt for those categories is added to the codebook's own.

Shapes:  B images · T targets · S scales · V categories · K tags · D LLM width · C decoder width · g grid side
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.mini.configuration import MiniConfig

TAG_SCALE = 6.0  # logits are clamped to ±this
NONE_SCORE = 6.0  # initial score of "no category"; halfway to a certain one


class WordMix(nn.Module):
    """Category names as token ids, so that they follow the embeddings when these train, and the maps around them."""

    name_ids: Tensor
    form_ids: Tensor
    form_names: Tensor

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        names = config.vocabulary_ids
        if len(names) != len(config.vision_config.vocabulary) or not all(names):
            raise ValueError(
                f"vocabulary_ids: expected a list of forms for each of {len(config.vision_config.vocabulary)} classes, "
                f"got {len([forms for forms in names if forms])}."
            )
        longest = max(len(ids) for forms in names for ids in forms)
        self.register_buffer("name_ids", torch.tensor([[*ids, *[-1] * (longest - len(ids))] for ids, *_ in names]))
        # The longest first, each at the right end of its row: as they end at one token of a text.
        forms = sorted(((ids, v) for v, name in enumerate(names) for ids in name), key=lambda form: -len(form[0]))
        self.register_buffer("form_ids", torch.tensor([[*[-1] * (longest - len(ids)), *ids] for ids, _ in forms]))
        self.register_buffer("form_names", torch.tensor([name for _, name in forms]))
        self.token_gain = nn.Parameter(torch.ones(()))
        self.to_names = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)
        nn.init.zeros_(self.to_names.weight)  # at the start every category scores the same
        nn.init.zeros_(self.to_names.bias)
        self.none_score = nn.Parameter(torch.tensor(NONE_SCORE))
        self.prior_weight = nn.Parameter(torch.ones(()))
        self.to_pixels = nn.Linear(config.text_config.hidden_size, config.decoder_dim, bias=False)
        self.num_scales, self.num_tags, self.score_noise = config.num_scales, config.num_tags, config.score_noise
        self.to_prompts = nn.Linear(config.text_config.hidden_size, config.num_scales * config.decoder_dim, bias=False)
        self.tag_score = nn.Parameter(torch.zeros(config.text_config.hidden_size))
        # Thresholds of presence: precision counts for tags, recall for mentions.
        self.tag_bias = nn.Parameter(torch.zeros(()))
        self.mention_bias = nn.Parameter(torch.zeros(()))

    def words(self, embedding: nn.Module) -> Tensor:
        """Return the mean embedding (V, D) of each category's tokens."""
        present = (self.name_ids >= 0)[..., None]
        return (embedding(self.name_ids.clamp(min=0)) * present).sum(dim=1) / present.sum(dim=1)

    def add_noise(self, class_logits: Tensor, presence_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Add, in training, the same noise per category to class logits (B, V, h, w) and presence logits (B, V)."""
        if not (self.training and self.score_noise):
            return class_logits, presence_logits
        noise = self.score_noise * torch.randn_like(presence_logits)
        return class_logits + noise[..., None, None], presence_logits + noise

    def tags(self, presence: Tensor, words: Tensor) -> Tensor:
        """Return tokens (B, K, D) of the K most probable categories, sorted: the word plus its score embedding."""
        scores, classes = presence.topk(self.num_tags, dim=1)
        return words[classes] + self._score_embedding(scores + self.tag_bias)

    def mention_embeddings(self, input_ids: Tensor, presence: Tensor) -> Tensor:
        """Return score embeddings (B, T, D) at the tokens that end a category in a text (B, T); 0 elsewhere."""
        classes = self.mentions(input_ids)
        scores = presence.gather(1, classes.clamp(min=0))
        return self._score_embedding(scores + self.mention_bias) * (classes >= 0)[..., None]

    def mentions(self, input_ids: Tensor) -> Tensor:
        """Return the category (B, T) whose name each token ends, -1 for none; the longest match wins."""
        length = self.form_ids.shape[1]
        windows = F.pad(input_ids, (length - 1, 0), value=-1).unfold(1, length, 1)[:, :, None]
        matches = ((windows == self.form_ids) | (self.form_ids < 0)).all(dim=-1)
        return torch.where(matches.any(dim=-1), self.form_names[matches.int().argmax(dim=-1)], -1)

    def _score_embedding(self, scores: Tensor) -> Tensor:
        return (scores / TAG_SCALE).clamp(-1, 1)[..., None] * self.tag_score

    def to_tokens(self, class_logits: Tensor, words: Tensor, grid: int) -> Tensor:
        """Return what to add to image tokens (B, g·g, D); each cell takes the maximum, so that small objects count."""
        presence = F.adaptive_max_pool2d(_presence(class_logits), grid).flatten(2)
        return self.token_gain * torch.einsum("bvp,vd->bpd", presence, centred(words))

    def to_map(self, class_logits: Tensor, words: Tensor, grid: int) -> Tensor:
        """Return what to add to decoder features (B, C, g, g)."""
        presence = F.interpolate(_presence(class_logits), (grid, grid), mode="area")
        return torch.einsum("bvxy,vc->bcxy", presence, self.to_pixels(centred(words)))

    def class_scores(self, states: Tensor, words: Tensor) -> Tensor:
        """Score each category, and last "none", by the first state of each target's group: (T, D) → (T, V + 1)."""
        scores = self.to_names(states) @ word_directions(words.to(states.dtype)).T
        return torch.cat([scores, self.none_score.to(scores.dtype).expand(len(scores), 1)], dim=1)

    def shares(self, states: Tensor, words: Tensor) -> Tensor:
        """Return category probabilities without "none": (T, D) → (T, V)."""
        return self.class_scores(states, words).softmax(dim=-1)[:, :-1]

    def written(self, input_ids: Tensor, groups: Tensor) -> Tensor:
        """Return the category (G,) that the text (B, T) ends with before each group (row, position); V for none."""
        classes = self.mentions(input_ids)[groups[:, 0], groups[:, 1] - 1]
        return torch.where(classes >= 0, classes, len(self.name_ids))

    def prompts(self, shares: Tensor, words: Tensor) -> Tensor:
        """Return the decoder's prompts for mixtures of categories: shares (T, V) → (T, S, C)."""
        prompts = self.to_prompts(word_directions(words)).to(shares.dtype)
        return (shares @ prompts).unflatten(1, (self.num_scales, -1))

    def prior(self, shares: Tensor, class_logits: Tensor, image_index: Tensor) -> Tensor:
        """Return the classifier's map of each target's mixture of categories: shares (T, V) → logits (T, h, w)."""
        if len(class_logits) == 1:
            return torch.einsum("tv,vxy->txy", shares, class_logits[0])
        maps = [
            torch.einsum("tv,vxy->txy", shares[image_index == image], logits)
            for image, logits in enumerate(class_logits)
        ]
        order = torch.cat([(image_index == image).nonzero()[:, 0] for image in range(len(class_logits))])
        return torch.cat(maps)[order.argsort()]


def centred(words: Tensor) -> Tensor:
    """Subtract the mean of all embeddings (V, D), so that low scores of many categories cancel."""
    return words - words.mean(dim=0)


def word_directions(words: Tensor) -> Tensor:
    """Scale centred embeddings (V, D) to a root mean square of 1."""
    return F.normalize(centred(words), dim=-1) * words.shape[-1] ** 0.5


def _presence(class_logits: Tensor) -> Tensor:
    """Square the probabilities, else low scores of the many absent categories would outweigh the few present."""
    return class_logits.sigmoid().square()
