"""Model directories that may be damaged or hostile: sizes within limits, and errors that name the directory."""

import json
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixellm.utils import limits

if TYPE_CHECKING:
    from transformers import PreTrainedConfig  # not needed to read a model that runs without it

# Names in configurations of transformers and ours → largest value. Text models write others in different ways.
SIZES = {
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), limits.MAX_LAYERS),
    **dict.fromkeys(("decoder_depth", "decoder_heads", "num_mask_tokens", "num_scales"), limits.MAX_LAYERS),
    **dict.fromkeys(("tokens_per_scale", "llm_grid"), limits.MAX_LAYERS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), limits.MAX_LAYERS),
    **dict.fromkeys(("hidden_size", "intermediate_size", "head_dim", "pixel_feature_size"), limits.MAX_WIDTH),
    **dict.fromkeys(("decoder_dim", "decoder_mlp_dim", "mask_width", "num_detections"), limits.MAX_WIDTH),
    **dict.fromkeys(("image_size", "patch_size"), limits.MAX_IMAGE_SIDE),
    "vocab_size": limits.MAX_VOCABULARY,
}


def expect_sizes(
    config: "Mapping[str, Any] | PreTrainedConfig", prefix: str = "", required: Collection[str] = ()
) -> None:
    """Raise a ValueError if a size in a configuration is no whole number, or out of limits.

    What is not `required` may be absent or null, which leaves it to a default, or a list of a value for each layer.
    """
    for name, most in SIZES.items():
        value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
        if name not in required and (value is None or isinstance(value, list | tuple)):
            continue
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{prefix}{name}: expected a whole number from 1 to {most}, got {value!r:.40}.")


@contextmanager
def readable(directory: Any, what: str) -> Iterator[None]:
    """Turn whatever libraries raise at malformed files of a model into a ValueError that names the directory.

    Errors of ours, a lack of memory and a missing package stay as they are.
    """
    try:
        yield
    except (MemoryError, ModuleNotFoundError):
        raise
    # They raise many kinds: OSError, KeyError, TypeError, ZeroDivisionError, RecursionError, tokenizers' Exception …
    except Exception as error:
        if _out_of_memory(error):
            raise
        ours = str(error).startswith("expected") or str(directory) in str(error)
        if ours and type(error) is ValueError:
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        raise ValueError(
            f"expected {what} in {directory}, got files that can't be read as such ({kind}{reason}). Copy or download "
            "the directory again, or mend the file."
        ) from error


def _out_of_memory(error: Exception) -> bool:
    """Return whether torch, where it is loaded, lacks memory on a device."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model directory; a ValueError if the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON file at {path} ({error}). Is this the checkpoint's directory?") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"expected a JSON object in {path}, got {str(content)[:60]}. Is this the checkpoint's directory?"
        )
    return content


def read_config(directory: str | Path, **settings: Any) -> Any:
    """Read the configuration of the model in a directory; a ValueError if it is malformed."""
    from transformers import AutoConfig

    with readable(directory, "a config.json of a model"):
        return AutoConfig.from_pretrained(directory, **settings)


def expect_enough_weights(directory: Path, config: Any) -> None:
    """Raise a ValueError if a directory's weights are too few for the layers and widths of its configuration.

    Loading would otherwise initialise what is missing at random, in all the memory that it takes, before it fails.
    """
    text = config.text_config
    width = getattr(text, "intermediate_size", None)
    least = text.vocab_size * text.hidden_size
    least += text.num_hidden_layers * text.hidden_size * (width if isinstance(width, int) else 0)
    if hasattr(config, "decoder_mlp_dim"):
        least += config.decoder_depth * config.decoder_dim * config.decoder_mlp_dim
    stored = stored_bytes(directory)
    if stored < least:  # a stored weight takes a byte or more
        raise ValueError(
            f"expected the weights that {directory}/config.json describes, {least:,} or more, got {stored:,} bytes of "
            "*.safetensors. Is it another model's config.json, or a download that broke off?"
        )


def stored_bytes(directory: Path) -> int:
    """Count the bytes of a checkpoint's safetensors."""
    with readable(directory, "the weights of a model"):
        return sum(file.stat().st_size for file in directory.glob("*.safetensors"))
