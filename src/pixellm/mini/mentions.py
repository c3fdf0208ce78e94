"""Mentions: where a text names a category, the language model reads how many candidates it has and how sure it is.

Shapes:  B texts · T tokens · N names that texts may mention, first the V categories of the vocabulary · D LLM width
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.mini.candidates import SCORE_RANGE, Candidates
from pixellm.mini.configuration import MiniConfig

MOST = 8  # candidates of a category that are counted
SPREAD = 0.3  # of the marks for counts at the start


class Mentions(nn.Module):
    """Marks at the tokens that end a name: one for each number of candidates, and one in proportion to the score."""

    form_ids: Tensor
    form_names: Tensor

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        names, width = config.vocabulary_ids, config.text_config.hidden_size
        longest = max(len(ids) for forms in names for ids in forms)
        self.lookback = longest - 1
        # The longest first, each at the right end of its row: as they end at one token of a text. The vocabulary's
        # before further names, where a form stands for two.
        forms = sorted(((ids, name) for name, own in enumerate(names) for ids in own), key=lambda form: -len(form[0]))
        self.register_buffer("form_ids", torch.tensor([[*[-1] * (longest - len(ids)), *ids] for ids, _ in forms]))
        self.register_buffer("form_names", torch.tensor([name for _, name in forms]))
        self.count = nn.Embedding(MOST + 1, width)
        self.score = nn.Parameter(torch.zeros(width))

    def conditioning(self, candidates: Candidates, names: int) -> Tensor:
        """Return for each of the first `names` names the number of candidates, and their score: (B, 2 · names)."""
        numbers = torch.arange(names, device=candidates.classes.device)
        own = (candidates.classes[..., None] == numbers) & candidates.valid[..., None]
        scores = (candidates.scores[..., None] * own).sum(dim=1) / own.sum(dim=1).clamp(min=1)
        return torch.cat([own.sum(dim=1), scores], dim=1)

    def forward(self, input_ids: Tensor, conditioning: Tensor) -> Tensor:
        """Return what to add to the embeddings of a text (B, T): (B, T, D), 0 where no name ends.

        Names that the `conditioning` does not reach have no candidate; a number below 0 leaves a name unmarked.
        """
        names = self.names(input_ids)
        counts, scores = (F.pad(values, (0, 1)) for values in conditioning.chunk(2, dim=1))
        known = names.clamp(0, counts.shape[1] - 1)
        count, score = counts.gather(1, known), (scores.gather(1, known) / SCORE_RANGE).clamp(-1, 1)
        marks = self.count(count.long().clamp(0, MOST)) + score[..., None].to(self.score.dtype) * self.score
        return marks * ((names >= 0) & (count >= 0))[..., None]

    def names(self, input_ids: Tensor) -> Tensor:
        """Return the name (B, T) that ends at each token, -1 for none; the longest match wins."""
        length = self.form_ids.shape[1]
        windows = F.pad(input_ids, (length - 1, 0), value=-1).unfold(1, length, 1)[:, :, None]
        matches = ((windows == self.form_ids) | (self.form_ids < 0)).all(dim=-1)
        return torch.where(matches.any(dim=-1), self.form_names[matches.int().argmax(dim=-1)], -1)

    def scale_to(self, size: float) -> None:
        """Initialise with marks about as large as words, whose embeddings have the root mean square `size`."""
        with torch.no_grad():
            absent, present, score = size * torch.randn(3, len(self.score))
            self.count.weight.copy_(present + SPREAD * size * torch.randn_like(self.count.weight))
            self.count.weight[0] = absent
            self.score.copy_(SPREAD * score)
