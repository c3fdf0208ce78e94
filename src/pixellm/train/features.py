"""Features of a frozen vision encoder, kept on disk: each image is encoded once, then read.

A file's key is a digest of everything that decides over its content: the pixels as the encoder gets them (so the image,
its size and its preprocessing), the encoder's weights, the layers and sizes that are taken, and the precision.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pixellm.train.model_kind import ModelKind
from pixellm.train.recipe import FeatureSettings
from pixellm.utils.sizes import bytes_of
from pixellm.utils.tensor_cache import TensorCache

DIGEST_BYTES = 20


class FeatureCache:
    """See `pixellm.model.vision.CachedFeatures`.

    Args:
        cache: where features are kept.
        encoder: what identifies the encoder, its weights and settings.
    """

    def __init__(self, cache: TensorCache, encoder: str) -> None:
        self.cache, self.encoder = cache, encoder

    def __call__(self, inputs: Sequence[Any], encode: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        device = next(value.device for value in inputs if isinstance(value, Tensor))
        key = self._key(inputs, device.type)
        stored = self.cache.read(key)
        if stored is None:
            made = {name: tensor.detach() for name, tensor in encode().items()}
            self.cache.write(key, {name: tensor.cpu() for name, tensor in made.items()})
            return made
        return {name: tensor.to(device) for name, tensor in stored.items()}

    def _key(self, inputs: Sequence[Any], device: str) -> str:
        digest = hashlib.blake2b(self.encoder.encode(), digest_size=DIGEST_BYTES)
        computed_in = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        digest.update(f"{device} {computed_in}".encode())
        for value in inputs:
            _add(digest, value)
        return digest.hexdigest()


def keep_features(model: Any, kind: ModelKind, settings: FeatureSettings) -> None:
    """Let a model whose adapters are inserted read features from disk, if the settings name a directory.

    Raises:
        ValueError: parts of the vision encoder train, or the model is of a kind whose features are not kept.
    """
    if settings.cache is None:
        return
    if not kind.keeps_features:
        raise ValueError(
            "features: cache: expected a model of the paper's assembly, or one that `pixellm init` made, got a "
            f"{model.config.model_type!r}. Leave the cache out."
        )
    modules: Sequence[nn.Module] = model.vision_modules
    training = [name for module in modules for name, p in module.named_parameters() if p.requires_grad]
    if training:
        raise ValueError(
            f"features: cache: expected a frozen vision encoder, got one in which {training[0]} trains. Leave the "
            "cache out, or take the encoder out of stage.trained."
        )
    cache = TensorCache(settings.cache, bytes_of(settings.limit))
    model.feature_cache = FeatureCache(cache, encoder_digest(model, modules))


def encoder_digest(model: Any, modules: Sequence[nn.Module]) -> str:
    """Identify an encoder by its weights, and by its configuration, which says what is taken from it."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    settings = model.config.to_dict()
    text = ("text_config", "architectures", "dtype", "transformers_version", "_name_or_path")
    digest.update(
        json.dumps({k: v for k, v in settings.items() if k not in text}, sort_keys=True, default=str).encode()
    )
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            _add(digest, tensor)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add a value to a digest; of a tensor type, shape and content."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        digest.update(repr(value).encode())
