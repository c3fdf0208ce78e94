"""Results that one part of PixelLM hands to the next.

Shapes:  B images · T tokens · D LLM width · G targets · S scales · K tokens of a scale · C decoder width
         N image tokens · M masks of an image
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class EncodedImages:
    """Everything that the LLM and the pixel decoder need of B images; computed once per image, shared by its questions.

    Args:
        tokens: (B, N, D) image tokens for the LLM.
        token_valid: bool (B, N), False for tokens that lie in the padding.
        maps: S maps (B, C, g, g) for the pixel decoder.
        resized_hw: (B, 2).
        conditioning: (B, X) what `llm_inputs` of a variant reads beside the text; None for PixelLM itself.
    """

    tokens: Tensor
    token_valid: Tensor
    maps: list[Tensor]
    resized_hw: Tensor
    conditioning: Tensor | None = None


@dataclass
class ForwardStates:
    """Intermediate results of a teacher-forced pass, from which losses are computed.

    Args:
        images: the encoded images.
        hidden: (B, T, D) last-layer states of the LLM.
        groups: (G, 2) row and position of the first token of each codebook group.
        group_states: (G·S·K, D) what the codebook reads.
        mask_logits: for each image (M, 2g, 2g).
    """

    images: EncodedImages
    hidden: Tensor
    groups: Tensor
    group_states: Tensor
    mask_logits: list[Tensor]
