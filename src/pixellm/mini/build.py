"""A new model from pretrained parts, ready for a recipe's answer stage."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from pixellm.data.categories import COCO, SYNONYMS
from pixellm.data.describe import noun
from pixellm.mini.configuration import MiniConfig
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.mini.parts import fetch_language_model, read_detector
from pixellm.mini.recipe import MiniRecipe
from pixellm.mini.vision_stage import load_backbone
from pixellm.mini.word_mix import centred, word_directions
from pixellm.model import PixelLMImageProcessor, PixelLMProcessor
from pixellm.model.processing import add_codebook_tokens
from pixellm.model.templates import CHATML

RIDGE = 0.05  # of the states' variance
CODEBOOK_SHARE = 0.1  # of the usual size of initial weights
SURE_SCORE = 12.0  # logit of the right name among all
TIMM_MEAN = TIMM_STD = (0.5, 0.5, 0.5)  # what EfficientNet-Lite was trained with


def build_processor(recipe: MiniRecipe) -> PixelLMProcessor:
    tokenizer = AutoTokenizer.from_pretrained(fetch_language_model())
    count = recipe.model["num_scales"] * recipe.model["tokens_per_scale"]
    tokens = add_codebook_tokens(tokenizer, count)
    image_processor = PixelLMImageProcessor(recipe.model["vision"]["image_size"], TIMM_MEAN, TIMM_STD)
    return PixelLMProcessor(
        image_processor,
        tokenizer,
        tokens,
        num_image_tokens=recipe.model["llm_grid"] ** 2 + recipe.model.get("num_tags", 0),
        **CHATML,
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
        vocabulary_ids=[form_ids(processor.tokenizer, name) for name in vocabulary],
        **settings,
    )


def form_ids(tokenizer: PreTrainedTokenizerBase, name: str) -> list[list[int]]:
    """Token ids of a name's forms, inside a sentence and at its start; brackets only tell meanings apart."""
    nouns = [noun(name), *(noun(name, word) for word in SYNONYMS.get(name, ()))]
    forms = dict.fromkeys(form for word in nouns for form in (word.singular, word.plural))
    words = [name.split(" (")[0], *forms]
    ids = [tokenizer.encode(start + word, add_special_tokens=False) for start in (" ", "") for word in words]
    return [list(form) for form in dict.fromkeys(map(tuple, ids))]


def build_model(config: MiniConfig, vision_weights: Path, detector: Path | None) -> MiniForConditionalGeneration:
    """A model with pretrained parts; everything else is new."""
    model = MiniForConditionalGeneration(config)
    load_backbone(model.vision_encoder, vision_weights, config.vision_config.vocabulary)
    if detector:
        model.vision_encoder.detector.network.load_state_dict(read_detector(detector))
    load_language_model(model)
    scale_to_words(model)
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


def scale_to_words(model: MiniForConditionalGeneration) -> None:
    """Start with image tokens about as large as word embeddings, and word features about as large as image features."""
    width = model.config.text_config.hidden_size
    size = centred(model.word_mix.words(model.get_input_embeddings())).pow(2).mean().sqrt()
    with torch.no_grad():
        model.llm_projector[-1].weight.mul_(size)
        model.llm_projector[-1].bias.zero_()
        nn.init.normal_(model.word_mix.to_pixels.weight, std=1 / float(size) / width**0.5)
        nn.init.normal_(model.word_mix.to_prompts.weight, std=1 / width**0.5)
        nn.init.normal_(model.word_mix.tag_score, std=float(size))


@torch.no_grad()
def calibrate_codebook(model: MiniForConditionalGeneration, batch: dict) -> None:
    """Centre and scale the projection's input on the states of a first batch.

    The last-layer states of a language model share one large direction. Without this the projection sees hardly
    anything else, and every prompt comes out the same (docs/LOG.md, "Codebook collapse").
    """
    seen: list[torch.Tensor] = []
    hook = model.codebook.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float()))
    with torch.autocast(model.device.type, torch.bfloat16):  # frozen weights are bf16
        model(**batch)
    hook.remove()
    states = torch.cat(seen)
    first, *_, last = model.codebook.project
    first.weight.div_(states.std(dim=0).clamp(min=1e-3))
    first.bias.sub_(first.weight @ states.mean(dim=0))
    # The decoder knows the prompts of categories already: start as a small change to them.
    last.weight.mul_(CODEBOOK_SHARE)
    last.bias.zero_()


@torch.no_grad()
def fit_names(model: MiniForConditionalGeneration, batches: Iterable[dict]) -> None:
    """Start `WordMix.to_names` at the least-squares map from codebook states to the words of their names.

    Args:
        model: with a dense classifier.
        batches: keyword arguments with `target_classes`.
    """
    states, names = [], []
    hook = model.word_mix.to_names.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0].float()))
    with torch.autocast(model.device.type, torch.bfloat16):
        for batch in batches:
            before = len(states)
            model(**batch)
            del states[before + 1 :]  # the loss asks for the same states again
            names.append(batch["target_classes"])
    hook.remove()
    x, target = torch.cat(states), torch.cat(names)
    known = (target >= 0) & (target < len(model.word_mix.name_ids))
    x, target = x[known], target[known]
    directions = word_directions(model.word_mix.words(model.get_input_embeddings()).float())
    mean = x.mean(dim=0)
    centred = x - mean
    gram = centred.T @ centred
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    wanted = directions[target] * (SURE_SCORE / directions.shape[-1])
    weight = torch.linalg.solve(gram + ridge, centred.T @ wanted).T
    model.word_mix.to_names.weight.copy_(weight)
    model.word_mix.to_names.bias.copy_(wanted.mean(dim=0) - weight @ mean)


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
