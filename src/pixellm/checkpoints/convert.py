"""Conversion of released checkpoints to ours.

Reads `pytorch_model*.bin` or safetensors of the released layout, or the single file that DeepSpeed's merge writes (LoRA
not yet merged). Pickles are opened with `weights_only=True`; no model is built, so memory stays at the mapped files.
"""

import re
from collections.abc import Container, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaTokenizer

from pixellm.checkpoints.layout import ConversionReport, Layout
from pixellm.checkpoints.lora import merge_lora
from pixellm.checkpoints.pixellm_layout import PIXELLM, codebook_of, codebook_tokens
from pixellm.model.configuration import PixelLMConfig, PixelLMVisionConfig
from pixellm.model.modeling import PixelLMForConditionalGeneration
from pixellm.model.processing import PixelLMImageProcessor, PixelLMProcessor
from pixellm.model.templates import VICUNA
from pixellm.utils.files import atomic_directory, expect_empty
from pixellm.utils.model_files import read_json
from pixellm.utils.weights import read_weights, save_state

RELEASED_LORA_ALPHA = 16  # of the released training code


def convert(released: Path, out: Path, vision: Path, layouts: Sequence[Layout] = ()) -> ConversionReport:
    """Convert a released checkpoint.

    Args:
        released: directory with `config.json`, tokenizer and weights in the released layout.
        out: directory to write; must not exist or be empty. It appears complete or not at all.
        vision: directory of the CLIP vision encoder in Hugging Face format.
        layouts: layouts that it may have, besides PixelLM's.

    Raises:
        ValueError: an unreadable source, or keys that are missing or of the wrong shape. Unknown ones are reported.
    """
    expect_empty(out)
    settings = read_json(released / "config.json")
    state = _strip_peft(read_weights(released))
    layout = next((known for known in layouts if any(key.startswith(known.prefix) for key in state)), PIXELLM)
    tokenizer = _tokenizer(released, state, layout)
    clip_settings = read_json(vision / "config.json")
    config = layout.config(settings, clip_settings, tokenizer, state)
    report = ConversionReport()
    expected = _expected_shapes(layout.model, config)
    renamed = _rename(state, layout, expected, report)
    constants = layout.constants(config)
    report.constants = list(constants)
    shifted = config.compat == "released"
    clip = clip_weights(read_weights(vision), config.vision_config, expected, report, shifted)
    ours = renamed | clip | constants
    _compare(config, expected, ours, report)
    if report.missing or report.mismatched:
        raise ValueError(f"{released}: {report.faults(layout.name)}")
    with atomic_directory(out) as directory:
        config.architectures = [layout.model.__name__]
        config.save_pretrained(directory)
        _processor(config, tokenizer, layout.image_processor(config)).save_pretrained(directory)
        save_state(ours, directory)
    return report


def check(out: Path, layouts: Sequence[Layout] = ()) -> ConversionReport:
    """Re-open a converted directory and compare its keys with the model that its config describes."""
    kind = read_json(out / "config.json").get("model_type")
    model = next((known.model for known in layouts if known.model.config_class.model_type == kind), PIXELLM.model)
    report = ConversionReport()
    state = read_weights(out)
    config = model.config_class.from_pretrained(out)
    _compare(config, _expected_shapes(model, config), state, report)
    report.used = {key: key for key in state if key not in report.unknown and key not in report.mismatched}
    PixelLMProcessor.from_pretrained(out)
    return report


def _tokenizer(released: Path, state: dict[str, Tensor], layout: Layout) -> LlamaTokenizer:
    if not (released / "tokenizer.model").exists():
        raise ValueError(f"expected a tokenizer.model in {released}, found none. Is this the checkpoint's directory?")
    tokenizer = LlamaTokenizer.from_pretrained(released)
    rows = len(state.get("model.embed_tokens.weight", ()))
    if not codebook_of(tokenizer) and rows > len(tokenizer):
        layout.extend(tokenizer, rows)  # training saves weights alone; beside them lies the base model's tokenizer
    return tokenizer


def _processor(
    config: PixelLMConfig, tokenizer: LlamaTokenizer, image_processor: PixelLMImageProcessor
) -> PixelLMProcessor:
    more = [token for token in ("<im_patch>",) if token in tokenizer.get_added_vocab()]
    return PixelLMProcessor(
        image_processor,
        tokenizer,
        codebook_tokens=codebook_tokens(tokenizer),
        num_image_tokens=config.num_image_tokens,
        **{**VICUNA, "control_tokens": [*VICUNA["control_tokens"], *more]},
    )


def _strip_peft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo peft's wrapping of a merged DeepSpeed file, LoRA merged."""
    stripped = {re.sub(r"^(base_model\.model\.)?", "", key).replace(".base_layer.", "."): v for key, v in state.items()}
    stripped = {
        re.sub(r"\.modules_to_save\.default\.", ".", k): v for k, v in stripped.items() if ".original_module." not in k
    }
    return merge_lora(stripped, RELEASED_LORA_ALPHA)


def _rename(
    state: dict[str, Tensor], layout: Layout, expected: Container[str], report: ConversionReport
) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = next((m.expand(new) for old, new in layout.renamed if (m := re.fullmatch(old, key))), None)
        if layout.dropped.fullmatch(key) or (name is not None and name not in expected):
            report.dropped.append(key)
        elif name is None:
            report.unknown.append(key)
        else:
            report.used[key] = name
            ours[name] = tensor
    return ours


def clip_weights(
    state: dict[str, Tensor],
    config: PixelLMVisionConfig,
    expected: Container[str],
    report: ConversionReport,
    shifted: bool = False,
) -> dict[str, Tensor]:
    """Return a CLIP vision encoder's weights under those of our names that are `expected`, its position table resized.

    Args:
        state: the weights under CLIP's names.
        config: of the encoder that they become.
        expected: names of the whole model's weights.
        report: is extended.
        shifted: see `resize_positions`.
    """
    ours: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = "vision_encoder.clip." + key.removeprefix("vision_model.")
        if name not in expected:
            report.dropped.append(key)
            continue
        if name.endswith("position_embedding.weight"):
            side = config.image_size // config.clip_config.patch_size
            tensor = resize_positions(tensor, side, shifted)
        report.used[key] = name
        ours[name] = tensor
    return ours


def resize_positions(table: Tensor, side: int, shifted: bool) -> Tensor:
    """Resize CLIP's position table (1 + n², D), class token first, to a side × side grid.

    With `shifted` the last row is taken for the class token, as the released code does (docs/parity.md#positions);
    otherwise patches are interpolated bicubically, as transformers does.
    """
    kept, patches = (table[-1:], table[:-1]) if shifted else (table[:1], table[1:])
    old = int(len(patches) ** 0.5)
    if not shifted and old == side:
        return table
    mode = "bilinear" if shifted else "bicubic"
    square = patches.float().T.reshape(1, -1, old, old)
    resized = F.interpolate(square, (side, side), mode=mode, align_corners=False).flatten(2)[0].T
    return torch.cat([resized, kept.float()] if shifted else [kept.float(), resized])


def _expected_shapes(model: type[PixelLMForConditionalGeneration], config: PixelLMConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        built = model(config)
    return {key: tuple(tensor.shape) for key, tensor in built.state_dict().items()}


def _compare(
    config: PixelLMConfig, expected: dict[str, tuple[int, ...]], state: dict[str, Tensor], report: ConversionReport
) -> None:
    tied = {"language_model.lm_head.weight"} if config.text_config.tie_word_embeddings else set()
    report.missing = [key for key in expected if key not in state and key not in tied]
    report.unknown += [key for key in state if key not in expected]
    report.mismatched = {
        key: (expected[key], tuple(tensor.shape))
        for key, tensor in state.items()
        if key in expected and expected[key] != tuple(tensor.shape)
    }
