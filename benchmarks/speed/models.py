"""The sizes that are measured: the embedded default, a mid size and the full 7B, both with random weights."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from pixellm.checkpoints.presets import pixellm_7b
from pixellm.hub.models import MINI
from pixellm.model import PixelLMForConditionalGeneration, PixelLMProcessor
from pixellm.model.configuration import PixelLMConfig, PixelLMVisionConfig
from pixellm.model.processing import PixelLMImageProcessor, add_codebook_tokens
from pixellm.predictor import Predictor
from pixellm.segmenter import load as load_model

MID, FULL = "mid", "pixellm-7b"
SIZES = (MINI, MID, FULL)
PROMPT = 57  # text tokens before the answer, system prompt and question together
SYSTEM = 40
WORDS = 1000  # of the random models' texts


def mid() -> PixelLMConfig:
    """A 12-layer encoder at 448 pixels, width 384; an 8-layer language model, width 768; decoder 256."""
    clip = {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
    }
    text = LlamaConfig(
        vocab_size=32009,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=12,
        max_position_embeddings=2048,
        pad_token_id=0,
    )
    return PixelLMConfig(
        vision_config=PixelLMVisionConfig(kind="clip", image_size=448, clip=clip),
        text_config=text,
        codebook_ids=tuple(range(32003, 32009)),
    )


def load(size: str, dtype: torch.dtype, device: str = "cpu") -> Predictor:
    """A model of a size; those without trained weights are made, the same at every call."""
    if size == MINI:
        return load_model(MINI, device, dtype)
    config = {MID: mid, FULL: pixellm_7b}[size]()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = PixelLMForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    return Predictor(model, word_processor(config))


def word_processor(config: PixelLMConfig) -> PixelLMProcessor:
    """A processor whose texts are words w0, w1, …, one token each, so that any number of tokens can be asked for."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, config.codebook_ids[0])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return PixelLMProcessor(
        PixelLMImageProcessor(config.vision_config.image_size),
        wrapped,
        codebook_tokens=add_codebook_tokens(wrapped, len(config.codebook_ids)),
        num_image_tokens=config.num_image_tokens,
        system=words(SYSTEM - 1),
        prefix="<s>{system} <image>",
        prompt=" {question}",
        answer="{answer}</s>",
        control_tokens=["<s>", "</s>"],
    )


def words(count: int) -> str:
    """A text of so many tokens for the models whose weights are random."""
    return " ".join(f"w{3 + 37 * i % WORDS}" for i in range(count))
