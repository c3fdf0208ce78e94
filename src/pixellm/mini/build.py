"""A new model from pretrained parts, ready for a recipe's stages."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from pixellm.data.categories import COCO, SYNONYMS
from pixellm.data.describe import noun, spoken
from pixellm.mini.class_prompts import centred
from pixellm.mini.configuration import MiniConfig
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.mini.parts import fetch_language_model, read_detector
from pixellm.mini.recipe import MiniRecipe
from pixellm.mini.scenes.lexicon import canonical, noun_of, overlapping
from pixellm.mini.scenes.lexicon import names as lexicon_names
from pixellm.mini.vision_stage import load_backbone
from pixellm.model import PixelLMImageProcessor, PixelLMProcessor
from pixellm.model.processing import add_codebook_tokens
from pixellm.model.templates import CHATML

CANDIDATE_SIZE = 0.12  # of the size of words: each part of a candidate beside its name
MARK_SIZE = 0.7  # of the size of words: marks of mentions
VERBS = ("can",)  # forms that are said of no object far more often
TIMM_MEAN = TIMM_STD = (0.5, 0.5, 0.5)  # what EfficientNet-Lite was trained with


def build_processor(recipe: MiniRecipe) -> PixelLMProcessor:
    tokenizer = AutoTokenizer.from_pretrained(fetch_language_model())
    count = recipe.model["num_scales"] * recipe.model["tokens_per_scale"]
    tokens = add_codebook_tokens(tokenizer, count)
    image_processor = PixelLMImageProcessor(recipe.model["vision"]["image_size"], TIMM_MEAN, TIMM_STD)
    return PixelLMProcessor(
        image_processor, tokenizer, tokens, num_image_tokens=recipe.model["num_candidates"], **CHATML
    )


def build_config(recipe: MiniRecipe, processor: PixelLMProcessor, vocabulary: list[str]) -> MiniConfig:
    text = AutoConfig.from_pretrained(fetch_language_model())
    text.vocab_size = max(text.vocab_size, max(processor.codebook_ids) + 1)
    text.name_or_path = ""  # a place on this machine
    settings = {key: value for key, value in recipe.model.items() if key != "vision"}
    detector = {"detector_classes": COCO} if recipe.detector else {}
    return MiniConfig(
        vision_config={"vocabulary": vocabulary, **detector, **recipe.model["vision"]},
        text_config=text.to_dict(),
        codebook_ids=processor.codebook_ids,
        vocabulary_ids=name_forms(processor.tokenizer, vocabulary),
        **settings,
    )


def name_forms(tokenizer: PreTrainedTokenizerBase, vocabulary: Sequence[str]) -> list[list[list[int]]]:
    """Return the token ids of each form of `known_names`, the name itself first; a form belongs to one name."""
    taken: set[tuple[int, ...]] = set()
    found: list[list[list[int]]] = []
    for number, name in enumerate(known_names(vocabulary)):
        nouns = [noun_of(name), *(noun(name, word) for word in SYNONYMS.get(name, ()))]
        words = dict.fromkeys(form for word in nouns for form in (word.singular, word.plural))
        spellings = dict.fromkeys(f"{start}{word}" for word in words for start in (" ", ""))
        spellings |= dict.fromkeys(word[0].upper() + word[1:] for word in words)
        ids = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in spellings]
        first = tuple(tokenizer.encode(f" {spoken(name)}", add_special_tokens=False))
        own = [form for form in dict.fromkeys((first, *ids)) if form not in taken]
        own = [form for form in own if tokenizer.decode(form).strip().lower() not in VERBS]
        if number < len(vocabulary) or own:
            found.append([list(form) for form in own or [first]])
        taken.update(own)
    return found


def known_names(vocabulary: Sequence[str]) -> list[str]:
    """Return the vocabulary, and further names of `scenes` that mean nothing in it."""
    own = {canonical(name) for name in vocabulary}
    further = sorted(name for name in lexicon_names() - own if not overlapping(name) & own)
    return [*vocabulary, *further]


def build_model(config: MiniConfig, vision_weights: Path, detector: Path | None) -> MiniForConditionalGeneration:
    """A model with pretrained parts; everything else is new."""
    model = MiniForConditionalGeneration(config)
    load_backbone(model.vision_encoder, vision_weights, config.vision_config.vocabulary)
    if detector:
        model.vision_encoder.detector.network.load_state_dict(read_detector(detector))
    load_language_model(model)
    initialise_parts(model)
    return model


def pixel_side(model: nn.Module) -> dict[str, torch.Tensor]:
    """All of a model's state but its language model's."""
    return {k: t.contiguous() for k, t in model.state_dict().items() if not k.startswith("language_model.")}


def load_pixel_side(model: nn.Module, state: dict[str, torch.Tensor], optional: tuple[str, ...] = ()) -> None:
    """Load what `pixel_side` gave, maybe of a model without the parts with the prefixes `optional`."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.startswith(("language_model.", *optional))]
    if missing or unexpected:
        raise ValueError(
            f"expected the result of this recipe's first stage, got one that lacks {missing[:3]} and has also "
            f"{unexpected[:3]}. Restart with --restart or choose another output directory."
        )


def initialise_parts(model: MiniForConditionalGeneration) -> None:
    """Start with candidates about as large as words, and word features about as large as image features.

    What no image has trained yet adds nothing: the prompts of codebook states.
    """
    width = model.config.text_config.hidden_size
    size = float(centred(model.class_prompts.words(model.get_input_embeddings())).pow(2).mean().sqrt())
    with torch.no_grad():
        nn.init.normal_(model.class_prompts.to_pixels.weight, std=1 / size / width**0.5)
        nn.init.normal_(model.class_prompts.to_prompts.weight, std=1 / width**0.5)
        nn.init.zeros_(model.codebook.project[-1].weight)
        nn.init.zeros_(model.codebook.project[-1].bias)
    if model.candidate_tokens is not None:
        model.candidate_tokens.scale_to(CANDIDATE_SIZE * size)
    if model.mentions is not None:
        model.mentions.scale_to(MARK_SIZE * size)


def load_language_model(model: MiniForConditionalGeneration) -> None:
    """Load the embedded language model; rows for new tokens start at the mean of the others."""
    state = load_file(fetch_language_model() / "model.safetensors")
    table = state.pop("model.embed_tokens.weight")
    rows = model.get_input_embeddings().weight
    with torch.no_grad():
        rows[: len(table)] = table
        extra = len(rows) - len(table)
        if extra:
            mean, spread = table.float().mean(dim=0), table.float().std(dim=0)
            rows[len(table) :] = mean + 0.5 * spread * torch.randn(extra, len(mean))
    missing, unexpected = model.language_model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert {key.split(".")[-2] for key in missing} <= {"embed_tokens", "lm_head"}, missing
