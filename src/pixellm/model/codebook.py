"""Segmentation codebook: the words with which the LLM points at pixels.

Every target is written as num_scales × tokens_per_scale special tokens, scale-major; their last-layer states are
projected and fused into one prompt for each scale (arXiv 2312.02228, section 3.2).

Shapes:  T targets · S scales · K tokens per scale · D LLM width · C decoder width
"""

import torch
from torch import Tensor, nn

from pixellm.model.configuration import HeadConfig


class Codebook(nn.Module):
    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.num_scales, self.tokens_per_scale = config.num_scales, config.tokens_per_scale
        width = config.text_config.hidden_size
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.decoder_dim))
        self.token_weights = nn.Parameter(
            torch.full((self.num_scales, self.tokens_per_scale), fusion_weight(config)),
            requires_grad=config.learned_fusion,
        )

    def forward(self, states: Tensor) -> Tensor:
        """Project the states of complete codebook groups and fuse the K tokens of each scale.

        Args:
            states: (T·S·K, D), group after group.

        Returns:
            (T, S, C)
        """
        tokens = self.project(states).unflatten(0, (-1, self.num_scales, self.tokens_per_scale))
        return torch.einsum("tskc,sk->tsc", tokens, self.token_weights)


def fusion_weight(config: HeadConfig) -> float:
    """Return the weight of each token of a scale: initially, or always where the fusion is not learned."""
    if config.learned_fusion or config.tokens_per_scale == 1:
        return 1 / config.tokens_per_scale
    # The released code divides by all tokens of a group where the mean would divide by one scale's; a single token it
    # takes as it is (docs/parity.md#fusion).
    return 1 / (config.num_scales * config.tokens_per_scale)


def find_groups(input_ids: Tensor, codebook_ids: list[int]) -> Tensor:
    """Return where codebook groups begin.

    Args:
        input_ids: (B, T).
        codebook_ids: the L·N ids of one group, in order.

    Returns:
        (G, 2) row and position of the first token of each group, in reading order.

    Raises:
        ValueError: codebook ids that do not form complete groups in order.
    """
    group = torch.tensor(codebook_ids, device=input_ids.device)
    starts = (input_ids == group[0]).nonzero()
    total = int(torch.isin(input_ids, group).sum())
    if total != len(starts) * len(group):
        raise ValueError(
            f"expected complete codebook groups of {len(group)} tokens, got {total} tokens in {len(starts)} groups. "
            "Was an answer truncated?"
        )
    if len(starts) and starts[:, 1].max() + len(group) > input_ids.shape[1]:
        raise ValueError("expected complete codebook groups, the last one is cut off. Was an answer truncated?")
    offsets = torch.arange(len(group), device=input_ids.device)
    tokens = input_ids[starts[:, :1], starts[:, 1:] + offsets]
    if not bool((tokens == group).all()):
        raise ValueError(f"expected the codebook tokens of each group in the order {codebook_ids}.")
    return starts
