"""Word mixing: a dense classifier's scores, mixed into the language model's own word embeddings.

Where the classifier sees a dog, the language model's image token and the decoder's features receive the embedding of
" dog": visual features that speak the model's language before anything is trained.

The names that are likeliest in the whole image follow as tags, one token each, with how sure it is; and where a text
mentions a name, its last token carries the same score.

The same scores give each target a first guess, the prior: the map of the names that its codebook states resemble. The
decoder's prompt for those names, learned before the language model learns to answer, is added to the codebook's own.

Shapes:  B images · T targets · S scales · V names · K tags · D LLM width · C decoder width · g grid side
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.model.configuration import PixelLMConfig

TAG_SCALE = 6.0  # logits beyond it say no more
NONE_SCORE = 6.0  # what a name's score has to be above to be the one meant rather than none; halfway to a sure one


class WordMix(nn.Module):
    """Holds the names as token ids, so that they follow the embeddings wherever training moves them."""

    name_ids: Tensor
    form_ids: Tensor
    form_names: Tensor

    def __init__(self, config: PixelLMConfig) -> None:
        super().__init__()
        names = config.vocabulary_ids
        if len(names) != len(config.vision_config.vocabulary) or not all(names):
            raise ValueError(
                f"vocabulary_ids: expected one list of forms for each of {len(config.vision_config.vocabulary)} names, "
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
        nn.init.zeros_(self.to_names.weight)  # at the start every name fits as well as any other
        nn.init.zeros_(self.to_names.bias)
        self.none_score = nn.Parameter(torch.tensor(NONE_SCORE))
        self.prior_weight = nn.Parameter(torch.ones(()))
        self.to_pixels = nn.Linear(config.text_config.hidden_size, config.decoder_dim, bias=False)
        self.num_scales, self.num_tags, self.score_noise = config.num_scales, config.num_tags, config.score_noise
        self.to_prompts = nn.Linear(config.text_config.hidden_size, config.num_scales * config.decoder_dim, bias=False)
        self.tag_score = nn.Parameter(torch.zeros(config.text_config.hidden_size))
        # When a name counts as present: what is listed should be there, and what is asked for should not be missed.
        self.tag_bias = nn.Parameter(torch.zeros(()))
        self.mention_bias = nn.Parameter(torch.zeros(()))

    def words(self, embedding: nn.Module) -> Tensor:
        """Mean embedding (V, D) of each name's tokens."""
        present = (self.name_ids >= 0)[..., None]
        return (embedding(self.name_ids.clamp(min=0)) * present).sum(dim=1) / present.sum(dim=1)

    def unsure(self, class_logits: Tensor, presence_logits: Tensor) -> tuple[Tensor, Tensor]:
        """What the language model is told of each name, its scores (B, V, h, w) and (B, V): in training, both noisy."""
        if not (self.training and self.score_noise):
            return class_logits, presence_logits
        noise = self.score_noise * torch.randn_like(presence_logits)
        return class_logits + noise[..., None, None], presence_logits + noise

    def tags(self, name_scores: Tensor, words: Tensor) -> Tensor:
        """Tokens (B, K, D) of the likeliest names, the likeliest first: the word, and along one direction its score."""
        scores, names = name_scores.topk(self.num_tags, dim=1)
        return words[names] + self._said(scores + self.tag_bias)

    def mentioned(self, input_ids: Tensor, name_scores: Tensor) -> Tensor:
        """What the scores (B, V) of the names that a text (B, T) mentions add to its embeddings: (B, T, D)."""
        names = self.mentions(input_ids)
        scores = name_scores.gather(1, names.clamp(min=0))
        return self._said(scores + self.mention_bias) * (names >= 0)[..., None]

    def mentions(self, input_ids: Tensor) -> Tensor:
        """The name (B, T) that each token ends, -1 for none; of "dog" and "hot dog" it is the longer."""
        length = self.form_ids.shape[1]
        windows = F.pad(input_ids, (length - 1, 0), value=-1).unfold(1, length, 1)[:, :, None]
        found = ((windows == self.form_ids) | (self.form_ids < 0)).all(dim=-1)
        return torch.where(found.any(dim=-1), self.form_names[found.int().argmax(dim=-1)], -1)

    def _said(self, scores: Tensor) -> Tensor:
        return (scores / TAG_SCALE).clamp(-1, 1)[..., None] * self.tag_score

    def to_tokens(self, class_logits: Tensor, words: Tensor, grid: int) -> Tensor:
        """Image tokens (B, g·g, D): small things count, so each cell takes a name's strongest presence in it."""
        presence = F.adaptive_max_pool2d(_presence(class_logits), grid).flatten(2)
        return self.token_gain * torch.einsum("bvp,vd->bpd", presence, centred(words))

    def to_map(self, class_logits: Tensor, words: Tensor, grid: int) -> Tensor:
        """Decoder features (B, C, g, g)."""
        presence = F.interpolate(_presence(class_logits), (grid, grid), mode="area")
        return torch.einsum("bvxy,vc->bcxy", presence, self.to_pixels(centred(words)))

    def name_scores(self, states: Tensor, words: Tensor) -> Tensor:
        """How well each name fits each target, by the first state of its group, and last, none: (T, D) → (T, V + 1)."""
        scores = self.to_names(states) @ word_directions(words.to(states.dtype)).T
        return torch.cat([scores, self.none_score.to(scores.dtype).expand(len(scores), 1)], dim=1)

    def shares(self, states: Tensor, words: Tensor) -> Tensor:
        """What each target is called, as shares of the names: (T, D) → (T, V), nearly 0 for what has another name."""
        return self.name_scores(states, words).softmax(dim=-1)[:, :-1]

    def written(self, input_ids: Tensor, groups: Tensor) -> Tensor:
        """The name that the text (B, T) ends with before each group (row, position): (G,), V where it is none."""
        names = self.mentions(input_ids)[groups[:, 0], groups[:, 1] - 1]
        return torch.where(names >= 0, names, len(self.name_ids))

    def prompts(self, shares: Tensor, words: Tensor) -> Tensor:
        """The decoder's prompts for mixtures of names: shares (T, V) → (T, S, C)."""
        prompts = self.to_prompts(word_directions(words)).to(shares.dtype)
        return (shares @ prompts).unflatten(1, (self.num_scales, -1))

    def prior(self, shares: Tensor, class_logits: Tensor, image_index: Tensor) -> Tensor:
        """Where the dense classifier sees what each target is called: shares of names (T, V) → logits (T, h, w)."""
        maps = [
            torch.einsum("tv,vxy->txy", shares[image_index == image], logits)
            for image, logits in enumerate(class_logits)
        ]
        order = torch.cat([(image_index == image).nonzero()[:, 0] for image in range(len(class_logits))])
        return torch.cat(maps)[order.argsort()]


def centred(words: Tensor) -> Tensor:
    """Embeddings (V, D) less what all names share: the faint scores of many names cancel."""
    return words - words.mean(dim=0)


def word_directions(words: Tensor) -> Tensor:
    """Centred embeddings (V, D) scaled to a root mean square of 1."""
    return F.normalize(centred(words), dim=-1) * words.shape[-1] ** 0.5


def _presence(class_logits: Tensor) -> Tensor:
    """Squared probabilities: the faint scores of the many names that are absent would outweigh the few present."""
    return class_logits.sigmoid().square()
