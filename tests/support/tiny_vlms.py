"""Tiny random vision-language models of transformers, with real processors, tokenizers and chat templates."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tests.support.tiny import SENTENCES

CONTENT = "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}"
CONTENT += "{% endif %}{% endfor %}"
CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n" + CONTENT + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() }}: " + CONTENT.replace("IMAGE", "<image>\n") + " "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SMOL = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    + CONTENT.replace("IMAGE", "<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
GEMMA = (
    "<s>{% for message in messages %}<start_of_turn>{{ message['role'].replace('assistant', 'model') }}\n"
    + CONTENT.replace("IMAGE", "<start_of_image>")
    + "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}
TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
}
QWEN_VISION: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "out_hidden_size": 32,
    "spatial_merge_size": 2,
}


def tiny_tokenizer(special: tuple[str, ...], metaspace: bool = False, **named: str) -> PreTrainedTokenizerFast:
    """BPE of some 400 words, byte-level or with LLaMA's word marks; `special` are control tokens, `named` too."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None, byte_fallback=False))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
        alphabet = [chr(code) for code in range(32, 127)] + ["\n"]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<unk>", "<s>", "</s>", *special],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, extra_special_tokens=named
    )


def _text(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> dict[str, Any]:
    """Sizes, with more rows in the vocabulary than tokens, as Qwen's."""
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return TEXT | ids | {"vocab_size": len(tokenizer) + 3} | changes


def llava() -> tuple[Any, Any]:
    tokenizer = tiny_tokenizer(("<image>",), metaspace=True)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<s>", "</s>", "<unk>"
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=112, patch_size=14
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**_text(tokenizer)), image_token_id=image_token)
    images = CLIPImageProcessor(size={"shortest_edge": 112}, crop_size={"height": 112, "width": 112})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    return LlavaForConditionalGeneration(config), processor


def _qwen(config_class: Any, model_class: Any, patch: int, vision: dict, text: dict) -> tuple[Any, Any, Any]:
    names = ("vision_start", "image_pad", "vision_end", "video_pad", "im_start", "im_end")
    tokenizer = tiny_tokenizer(tuple(f"<|{name}|>" for name in names))
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<unk>"
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    config = config_class(
        vision_config=QWEN_VISION | {"patch_size": patch} | vision,
        text_config=_text(tokenizer) | text,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    block = (2 * patch) ** 2
    images = Qwen2VLImageProcessor(
        patch_size=patch, merge_size=2, size={"shortest_edge": 4 * block, "longest_edge": 120 * block}
    )
    return model_class(config), tokenizer, images


QWEN_TEMPLATE = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")


def qwen2_5_vl() -> tuple[Any, Any]:
    vision = {"window_size": 56, "fullatt_block_indexes": [1, 3]}
    text = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    model, tokenizer, images = _qwen(Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, 14, vision, text)
    videos = Qwen2VLVideoProcessor()
    return model, Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=QWEN_TEMPLATE)


def qwen3_vl() -> tuple[Any, Any]:
    vision = {"deepstack_visual_indexes": [1, 2], "num_position_embeddings": 64}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4, "mrope_interleaved": True}
    text = {"head_dim": 8, "rope_parameters": rope, "tie_word_embeddings": True}
    model, tokenizer, images = _qwen(Qwen3VLConfig, Qwen3VLForConditionalGeneration, 16, vision, text)
    videos = Qwen3VLVideoProcessor()
    return model, Qwen3VLProcessor(images, tokenizer, videos, chat_template=QWEN_TEMPLATE)


def qwen3_5() -> tuple[Any, Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4, "mrope_interleaved": True}
    text = {
        "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "rope_parameters": rope | {"partial_rotary_factor": 1.0},
    }
    vision = {"num_position_embeddings": 64}
    model, tokenizer, images = _qwen(Qwen3_5Config, Qwen3_5ForConditionalGeneration, 16, vision, text)
    return model, Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=QWEN_TEMPLATE)


def internvl() -> tuple[Any, Any]:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = tiny_tokenizer((*named.values(), "<|im_start|>", "<|im_end|>"), **named)
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<unk>"
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": [56, 56],
        "patch_size": [14, 14],
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config=Qwen2Config(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    images = GotOcr2ImageProcessor(size={"height": 56, "width": 56}, min_patches=1, max_patches=12)
    processor = InternVLProcessor(
        images,
        tokenizer,
        InternVLVideoProcessor(),
        image_seq_length=4,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    return InternVLForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    tokenizer = tiny_tokenizer(("<image>", "<video>", "<|im_start|>", "<|im_end|>"))
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<unk>"
    vision = SiglipVisionConfig(**TOWER, image_size=56, patch_size=14)
    pinpoints = [[56 * rows, 56 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    images = LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=pinpoints)
    processor = LlavaOnevisionProcessor(
        images,
        tokenizer,
        LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHATML.replace("IMAGE", "<image>\n"),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = tiny_tokenizer((*named.values(), "<start_of_turn>", "<end_of_turn>"), **named)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<s>", "<end_of_turn>", "<unk>"
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    text = _text(tokenizer, head_dim=8, sliding_window=24, layer_types=["sliding_attention", "full_attention"])
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**TOWER, image_size=56, patch_size=14),
        text_config=text,
        image_token_index=ids["image_token"],
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        mm_tokens_per_image=4,
    )
    images = Gemma3ImageProcessor(size={"height": 56, "width": 56})
    return Gemma3ForConditionalGeneration(config), Gemma3Processor(images, tokenizer, GEMMA, image_seq_length=4)


def idefics3() -> tuple[Any, Any]:
    tokenizer = _smol_tokenizer()
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = Idefics3Config(
        vision_config=TOWER | {"image_size": 56, "patch_size": 14},
        text_config=LlamaConfig(**_text(tokenizer)),
        image_token_id=image_token,
        scale_factor=2,
    )
    images = Idefics3ImageProcessor(size={"longest_edge": 224}, max_image_size={"longest_edge": 56})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=SMOL)
    return Idefics3ForConditionalGeneration(config), processor


def _smol_tokenizer() -> PreTrainedTokenizerFast:
    places = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    own = ("<fake_token_around_image>", "<image>", "<global-img>", "<|im_start|>", "<end_of_utterance>")
    tokenizer = tiny_tokenizer((*own, *places))
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<|im_start|>", "<end_of_utterance>", "<unk>"
    return tokenizer


def smolvlm() -> tuple[Any, Any]:
    tokenizer = _smol_tokenizer()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = SmolVLMConfig(
        vision_config=vision, text_config=LlamaConfig(**_text(tokenizer)), image_token_id=image_token, scale_factor=2
    )
    images = SmolVLMImageProcessor(size={"longest_edge": 224}, max_image_size={"longest_edge": 56})
    videos = SmolVLMVideoProcessor()
    processor = SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=SMOL)
    return SmolVLMForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava,
    "llava_onevision": llava_onevision,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "gemma3": gemma3,
    "qwen3_5": qwen3_5,
}


def tiny_vlm(family: str) -> tuple[Any, Any]:
    """Return a random base model of a family and its processor; wide enough weights that answers vary."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family]()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model.eval(), processor


def let_it_write_masks(model: Any, processor: Any) -> None:
    """Make the first codebook token likelier than most words."""
    with torch.no_grad():
        words = model.get_output_embeddings().weight
        words[processor.codebook_ids[0]] = 2 * words[40:44].sum(dim=0)


needs_num2words = pytest.mark.skipif(find_spec("num2words") is None, reason="SmolVLM's processor needs num2words")
QUICK = ("qwen3_vl", "gemma3", "qwen3_5")  # between them: M-RoPE, tied tables, windows, both-way images, states


def _marks(name: str, slow: bool) -> list[Any]:
    return [*([needs_num2words] if name == "smolvlm" else []), *([pytest.mark.slow] if slow else [])]


every_family = pytest.mark.parametrize("family", [pytest.param(n, marks=_marks(n, False)) for n in FAMILIES])
# The others are slow: they take time, and differ from these in geometry and prompt alone.
families = pytest.mark.parametrize("family", [pytest.param(n, marks=_marks(n, n not in QUICK)) for n in FAMILIES])


def whole_pass(model: Any, row: torch.Tensor, inputs: Any) -> torch.Tensor:
    """Last-layer states of the base's own forward over a whole row (1, T): its own mask, no cache."""
    base = model.backbone.base_model
    types = {"token_type_ids": (row == base.config.image_token_id).int()} if model.adapter.bidirectional else {}
    return base(
        input_ids=row,
        position_ids=model.adapter.positions(base, row, inputs.pixels),
        mm_encoder_outputs={"image": model.encode_image(inputs).features},
        **types,
    ).last_hidden_state


def position_image(height: int, width: int) -> Image.Image:
    """Red is the row, green the column, both from 0 to 255 over the image."""
    rows, columns = torch.linspace(0, 255, height), torch.linspace(0, 255, width)
    planes = [rows[:, None].expand(height, width), columns.expand(height, width), torch.zeros(height, width)]
    return Image.fromarray(torch.stack(planes, dim=-1).round().to(torch.uint8).numpy())
