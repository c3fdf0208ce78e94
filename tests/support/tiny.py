"""Tiny random models, a tiny processor, and a logits processor that writes chosen answers: what many tests need."""

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModel, CLIPTextConfig, LlamaConfig, PreTrainedTokenizerFast

import pixellm.mini.lisa  # noqa: F401, registers its classes
from pixellm.baselines.seem import SeemConfig, SeemForGrounding, SeemProcessor
from pixellm.mini.configuration import MiniConfig, MiniVisionConfig
from pixellm.model import (
    PixelLMConfig,
    PixelLMForConditionalGeneration,
    PixelLMImageProcessor,
    PixelLMProcessor,
    PixelLMVisionConfig,
)
from pixellm.model.templates import CHATML

SENTENCES = [
    "Answer with the masks of what you name.",
    "What is the dog in this image? Please output segmentation mask.",
    "Sure, it is the dog. The cat and the red apple are on the table.",
    "The segmentation result of the dog is here. Where is the cat?",
    "user assistant system user assistant system",
]
VOCABULARY = ("dog", "cat", "red apple", "table", "person")
DETECTED = ("person", "dog", "table")
CODEBOOK_SIZE = 6  # both tiny models: 2 scales × 3 tokens, 3 scales × 2 tokens


def tiny_tokenizer(codebook: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE of some 340 words; role markers and codebook are special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    if codebook:
        wrapped.add_tokens(codebook_tokens(), special_tokens=True)
    return wrapped


def codebook_tokens() -> list[str]:
    return [f"[SEG{i}]" for i in range(CODEBOOK_SIZE)]


def tiny_processor(image_size: int, num_image_tokens: int) -> PixelLMProcessor:
    return PixelLMProcessor(
        PixelLMImageProcessor(image_size=image_size),
        tiny_tokenizer(),
        codebook_tokens=codebook_tokens(),
        num_image_tokens=num_image_tokens,
        **CHATML,
    )


def text_config(tied: bool = False) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
    )


CLIP_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "patch_size": 14,
}


def clip_config(**changes) -> PixelLMConfig:
    vision = PixelLMVisionConfig(kind="clip", image_size=56, clip=CLIP_SIZES, hidden_layers=(-2, -3))
    fields = {"num_scales": 2, "tokens_per_scale": 3, "llm_grid": 2, "decoder_dim": 32, "decoder_mlp_dim": 48}
    ids = tiny_tokenizer().convert_tokens_to_ids(codebook_tokens())
    return PixelLMConfig(vision, text_config(), codebook_ids=ids, **(fields | changes))


def timm_config(detector_classes: tuple[str, ...] = (), **changes) -> MiniConfig:
    """Return a tiny pixellm-mini."""
    tokenizer = tiny_tokenizer()
    vision = MiniVisionConfig(
        image_size=64,
        backbone="tf_efficientnet_lite0",
        reductions=(32, 16, 8),
        hidden_size=16,
        vocabulary=VOCABULARY,
        detector_classes=detector_classes,
        num_detections=8,
    )
    fields = {
        "num_scales": 3,
        "tokens_per_scale": 2,
        "llm_grid": 2,
        "num_candidates": 6,
        "decoder_dim": 32,
        "decoder_mlp_dim": 48,
        "num_mask_tokens": 1,
        "pixel_feature_size": 24,
        "vocabulary_ids": [[tokenizer.encode(" " + name)] for name in VOCABULARY],
        "codebook_ids": tokenizer.convert_tokens_to_ids(codebook_tokens()),
    }
    return MiniConfig(vision, text_config(tied=True), **(fields | changes))


def detector_config(**changes) -> MiniConfig:
    """Return a tiny pixellm-mini with a detector of some of its categories, in an order of their own."""
    return timm_config(DETECTED, **({"mask_width": 16} | changes))


def seem_config(text=None, **changes) -> SeemConfig:
    """Maps of four strides as the backbone gives them, 6 queries, 2 layers."""
    vision = PixelLMVisionConfig(
        kind="timm", image_size=64, backbone="tf_efficientnet_lite0", reductions=(32, 16, 8, 4), hidden_size=0
    )
    sizes = {"width": 32, "num_heads": 4, "ffn_dim": 48, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 6}
    return SeemConfig(vision, text or text_config(), **(sizes | {"max_tokens": 20, "num_points": 64} | changes))


def clip_text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=2,
    )


def seem_processor(image_size: int = 64) -> SeemProcessor:
    return SeemProcessor(PixelLMImageProcessor(image_size), tiny_tokenizer(codebook=False), 20)


def build_seem(config: SeemConfig, seed: int = 0) -> SeemForGrounding:
    """In eval mode, every weight random."""
    torch.manual_seed(seed)
    model = SeemForGrounding(config)
    scale = model.logit_scale.item()
    randomise(model, seed)
    torch.nn.init.constant_(model.logit_scale, scale)
    return model.eval()


def build(config: PixelLMConfig, seed: int = 0) -> PixelLMForConditionalGeneration:
    """A model in eval mode whose every weight and running statistic is random, so that each of them matters."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    randomise(model, seed)
    return model.eval()


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    for module in model.modules():
        scales = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                parameter.copy_(noise(parameter))
            elif parameter.ndim < 2:
                parameter.copy_((1.0 if scales and name == "weight" else 0.0) + 0.3 * noise(parameter))
            else:
                parameter.copy_(1.4 * noise(parameter) / parameter[0].numel() ** 0.5)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * noise(module.running_mean))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth random photograph."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (6, 6, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(noise.numpy()).resize((width, height), Image.Resampling.BICUBIC)


class Write:
    """Logits processor: each question gets its own plan, one entry for each decision, then the end.

    An entry is an id, or None where the model decides freely between all text tokens.
    """

    def __init__(self, processor: PixelLMProcessor, plans: dict[str, list[int | None]]) -> None:
        self.processor = processor
        self.group = processor.codebook_ids
        self.eos = processor.eos_ids[0]
        self.plans = {tuple(processor.prompt_ids(question)): plan for question, plan in plans.items()}
        self.banned = [i for i in processor.tokenizer.get_added_vocab().values()]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        assert len(ids) == 1
        wanted = self._wanted(ids[0].tolist())
        if wanted is None:
            scores = scores.clone()
            scores[:, self.banned] = -torch.inf
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, wanted] = 0
        return forced

    def _wanted(self, ids: list[int]) -> int | None:
        prefix = len(self.processor.prefix_ids) - self.processor.num_image_tokens
        prompts = [p for p in self.plans if tuple(ids[prefix : prefix + len(p)]) == p]
        prompt = max(prompts, key=len)
        answer = ids[prefix + len(prompt) :]
        groups = answer.count(self.group[0])
        decisions = len(answer) - groups * (len(self.group) - 1)
        plan = self.plans[prompt]
        return plan[decisions] if decisions < len(plan) else self.eos


def plan_of(processor: PixelLMProcessor, answer: str) -> list[int]:
    """The decisions that write `answer`, in which each `{seg}` is one decision."""
    rest = set(processor.codebook_ids[1:])
    return [i for i in processor.answer_ids(answer)[:-1] if i not in rest]
