"""Partial checkpoints, and their assembly with a base language model to a complete one.

A partial checkpoint holds what was trained: everything but the language model, adapters of that, and the codebook's
rows of its embedding table. The embedded default is shipped in this form; its base language model is fetched.
"""

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from pixellm.checkpoints.lora import merge_lora
from pixellm.model.processing import PixelLMImageProcessor, PixelLMProcessor, add_codebook_tokens
from pixellm.utils.files import make_readable
from pixellm.utils.model_files import read_json
from pixellm.utils.weights import mapped_weights, save_state

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_ROWS = "language_model.codebook_rows"
_PEFT_ROWS = "language_model.model.embed_tokens.token_adapter.trainable_tokens_delta.default"
_LLM = "language_model."


def save_partial_checkpoint(model: nn.Module, processor: PixelLMProcessor, lora_alpha: float, out: Path) -> None:
    """Write what was trained, as `assemble` reads it.

    Args:
        model: a PixelLM model with peft's adapters in its language model.
        processor: its processor.
        lora_alpha: LoRA's scale before division by the rank.
        out: directory; created.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = {
        key.replace(_PEFT_ROWS, _ROWS): tensor
        for key, tensor in model.state_dict().items()
        if not key.startswith(_LLM) or ".lora_" in key or key == _PEFT_ROWS
    }
    save_file({key: _compact(tensor) for key, tensor in state.items()}, out / WEIGHTS, {"lora_alpha": str(lora_alpha)})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(out)
    processor.save_pretrained(out)
    for file in out.glob("tokenizer*"):  # the base model's, which `assemble` extends in the same way
        file.unlink()
    (out / "chat_template.jinja").unlink(missing_ok=True)
    make_readable(out)


def load_partial_checkpoint(model: nn.Module, trained: Path, optional: tuple[str, ...] = ()) -> None:
    """Load what `save_partial_checkpoint` wrote into a model of the same sizes; without adapters, only its pixel side.

    Args:
        model: its weights are changed.
        trained: the directory.
        optional: prefixes of weights that may be in one of the two alone.

    Raises:
        ValueError: nothing of the kind is there, or it was trained with other sizes.
    """
    try:
        state = {key.replace(_ROWS, _PEFT_ROWS): tensor for key, tensor in load_file(trained / WEIGHTS).items()}
    except OSError:
        raise ValueError(f"expected what a training left in {trained} (its `trained`), found no {WEIGHTS}.") from None
    own = model.state_dict()
    adapted = _PEFT_ROWS in own
    state = {key: tensor for key, tensor in state.items() if adapted or not key.startswith(_LLM)}
    state = {key: tensor for key, tensor in state.items() if key in own or not key.startswith(optional)}
    wrong = [key for key, tensor in state.items() if key not in own or own[key].shape != tensor.shape]
    expected = (key for key in own if not key.startswith((_LLM, *optional)) or ".lora_" in key)
    missing = [key for key in expected if key not in state]
    if wrong or missing:
        raise ValueError(
            f"{trained}: expected what a model of these sizes trained, got one in which {(wrong + missing)[:3]} "
            "are others or missing. Start from another directory, or from nothing."
        )
    model.load_state_dict(state, strict=False)


def _compact(tensor: Tensor) -> Tensor:
    """Convert matrices and kernels to fp16; vectors and statistics stay as they are."""
    return (tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor).contiguous()


def assemble(trained: Path, language_model: Path, out: Path) -> None:
    """Write a complete checkpoint directory.

    Args:
        trained: what `save_partial_checkpoint` wrote.
        language_model: directory of the base language model.
        out: an empty directory.
    """
    # Half precision keeps 11 bits of the adapted weights where bf16 would keep 8.
    base = {_LLM + key: mapped[...].half() for key, mapped in mapped_weights(language_model).items()}
    state = load_file(trained / WEIGHTS)
    with safe_open(trained / WEIGHTS, "pt") as reader:
        alpha = float(reader.metadata()["lora_alpha"])
    table = _LLM + "model.embed_tokens.weight"
    base[table] = torch.cat([base[table], state.pop(_ROWS)])
    base |= state
    save_state(merge_lora(base, alpha), out)
    shutil.copyfile(trained / CONFIG, out / CONFIG)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    add_codebook_tokens(tokenizer, len(read_json(trained / CONFIG)["codebook_ids"]))
    settings = read_json(trained / "processor_config.json")
    image_processor = PixelLMImageProcessor(**settings.pop("image_processor"))
    settings.pop("processor_class")
    PixelLMProcessor(image_processor, tokenizer, **settings).save_pretrained(out)
