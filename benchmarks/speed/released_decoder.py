"""The pixel decoder in the released code's layout: all targets at once, features enlarged for each of them.

Shapes:  T targets · S scales · C decoder width · D LLM width
"""

from unittest.mock import patch

from torch import Tensor

from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.pixel_decoder import position_code
from pixellm.model.states import EncodedImages
from pixellm.model.two_way import Attention


def encode(model: PixelLMForConditionalGeneration, *pixels: Tensor) -> EncodedImages:
    """Encode images without `PixelDecoder.prepare`, which `decode` does for each target."""
    with patch.object(model.pixel_decoder, "prepare", lambda maps: maps):
        return model.encode_images(*pixels)


def decode(model: PixelLMForConditionalGeneration, images: EncodedImages, states: Tensor) -> Tensor:
    """Decode states (T·S·K, D) of complete groups to logits (T, 2g, 2g) on the one image that `encode` returned."""
    decoder = model.pixel_decoder
    prompts = model.codebook(states.to(images.maps[0].dtype))
    targets = len(prompts)
    maps = decoder.prepare([map_.expand(targets, -1, -1, -1) for map_ in images.maps])
    frequencies = [decoder.coarse_frequencies, *[decoder.fine_frequencies] * (len(maps) - 1)]
    codes = [position_code(matrix, map_.shape[-1]) for matrix, map_ in zip(frequencies, maps, strict=True)]
    with patch.object(Attention, "forward", _attend):
        return decoder._decode(maps, codes, prompts, None)


def _attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (
        attention._heads(projection(x))
        for projection, x in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value))
    )
    weights = (q @ k.transpose(-2, -1) * attention._scale).softmax(dim=-1)
    return attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
