"""The published recipes: each names existing fields and data sets, and its model can be built (without memory)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, CLIPVisionConfig, LlamaConfig, SamConfig, SamVisionConfig

from pixellm.baselines.lisa import LisaConfig
from pixellm.baselines.presets import SAM_HUGE
from pixellm.baselines.seem import SeemConfig
from pixellm.checkpoints.presets import CLIP_LARGE
from pixellm.data.catalogue import DATASETS, INSTANCES
from pixellm.hub.presets import PRESETS
from pixellm.mini.lisa import MiniLisaConfig
from pixellm.mini.recipe import MiniRecipe
from pixellm.train.model_kind import adapt
from pixellm.train.recipe import Recipe
from pixellm.training import KNOWN_MODELS, load_recipe
from tests.support import tiny

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
WHOLE = [path for path in RECIPES if not path.name.startswith("mini")]
ON_VLMS = ("qwen3_vl_4b", "qwen3_vl_8b", "internvl3_5_8b", "smolvlm2_2b", "own_data")  # from what `pixellm init` made
WRITING = [path for path in WHOLE if path.stem not in ("baseline_seem", *ON_VLMS)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_read(path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe, Recipe | MiniRecipe)
    assert len({load_recipe(other).name for other in RECIPES}) == len(RECIPES)
    if isinstance(recipe, Recipe):
        assert all(name in DATASETS or INSTANCES.fullmatch(name) or ".jsonl" in name for name in recipe.data.sets)
        assert recipe.initialise.preset in PRESETS or recipe.initialise.model


def test_the_mixture_is_the_papers() -> None:
    """Semantic : refer : VQA : MUSE = 2 : 9 : 2 : 4."""
    sets = load_recipe(RECIPES[0].with_name("7b.yaml")).data.sets
    shares = dict.fromkeys(("semantic", "refer", "vqa", "reasoning"), 0.0)
    for name, weight in sets.items():
        shares[DATASETS[name].kind] += weight
    assert [round(share, 9) for share in shares.values()] == [2, 9, 2, 4]


def described(recipe: Recipe, directory: Path) -> tuple:
    """Its model's configuration and processor, with settings of base models in the directory."""
    preset = PRESETS[recipe.initialise.preset]().text_config
    text = preset.to_dict() | {"vocab_size": 32000}
    LlamaConfig(**text).save_pretrained(directory / "llm")
    tiny.tiny_tokenizer(codebook=False).save_pretrained(directory / "llm")
    CLIPVisionConfig(**CLIP_LARGE, image_size=336).save_pretrained(directory / "clip")
    PRESETS["pixellm-mini"]().save_pretrained(directory / "mini")
    tiny.tiny_processor(image_size=512, num_image_tokens=84).save_pretrained(directory / "mini")
    seeing = directory / ("mini" if recipe.initialise.vision_model == "pixellm-mini" else "clip")
    parts = {"language_model": str(directory / "llm"), "vision_model": str(seeing)}
    if recipe.initialise.sam_model:
        SamConfig(vision_config=SamVisionConfig(**SAM_HUGE)).save_pretrained(directory / "sam")
        parts["sam_model"] = str(directory / "sam")
    return KNOWN_MODELS.open(replace(recipe.initialise, **parts)).describe()


def test_seem_has_the_encoder_of_the_others(tmp_path) -> None:
    """Frozen, at their size, without names; as many layers read the phrase as read the questions there."""
    recipe, nano = (load_recipe(RECIPES[0].with_name(f"{name}.yaml")) for name in ("baseline_seem", "nano"))
    config, processor = described(recipe, tmp_path)
    assert isinstance(config, SeemConfig)
    assert config.vision_config.image_size == nano.initialise.settings["vision_config"]["image_size"] == 320
    assert config.text_config.num_hidden_layers == nano.initialise.settings["text_config"]["num_hidden_layers"]
    assert processor.max_tokens == config.max_tokens
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    kind = KNOWN_MODELS.kind_of(config)
    adapt(model, kind, recipe.lora, recipe.stage.trained or kind.trained_parts(config))
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"pixel_decoder", "decoder", "text_projection", "logit_scale"}


@pytest.mark.parametrize("path", WRITING, ids=lambda path: path.stem)
def test_its_model_can_be_built(path, tmp_path) -> None:
    """From the base models' settings alone, on the meta device."""
    recipe = load_recipe(path)
    config, processor = described(recipe, tmp_path)
    assert config.codebook_ids == processor.codebook_ids
    assert len(config.codebook_ids) == config.num_scales * config.tokens_per_scale
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    kind = KNOWN_MODELS.kind_of(config)
    adapt(model, kind, recipe.lora, recipe.stage.trained or kind.trained_parts(config))
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert {"language_model", "codebook", "pixel_decoder"} <= trained
    # LISA-7B keeps the projector that it starts from.
    assert ("llm_projector" in trained) != (recipe.initialise.sam_model is not None)
    assert not {"vision_encoder", "sam_encoder"} & trained
    assert isinstance(config, LisaConfig | MiniLisaConfig) == ("lisa" in recipe.name)
    adapters = [name for name, p in model.named_parameters() if p.requires_grad and ".lora_A." in name]
    assert len(adapters) == len(recipe.lora.targets) * config.text_config.num_hidden_layers


@pytest.mark.parametrize("base", ["7b", "nano"])
def test_ablations_change_one_thing(base) -> None:
    """A setting with its value's parts, or one of how the data are asked about, and nothing else."""
    whole = load_recipe(RECIPES[0].with_name(f"{base}.yaml"))
    ablations = [load_recipe(path) for path in WHOLE if path.stem.startswith(f"{base}_")]
    assert len(ablations) >= 5
    for recipe in ablations:
        changed = {key for key in vars(whole) if vars(whole)[key] != vars(recipe)[key]} - {"name"}
        assert changed in ({"initialise"}, {"data"}, {"stage"}), recipe.name
        assert replace(recipe.stage, losses=whole.stage.losses) == whole.stage
        assert vars(recipe.initialise) | {"settings": 0} == vars(whole.initialise) | {"settings": 0}
        assert vars(recipe.data) | {"sets": 0, "chat": 0} == vars(whole.data) | {"sets": 0, "chat": 0}
        settings, others = recipe.initialise.settings, whole.initialise.settings
        different = {key for key in settings.keys() | others.keys() if settings.get(key) != others.get(key)}
        assert different - {"vision_config"} <= {next(iter(different - {"vision_config"}), "")}, recipe.name


def test_a_base_has_to_be_another_recipe_beside_it(tmp_path) -> None:
    for base in ("r.yaml", "../r.yaml"):
        (tmp_path / "r.yaml").write_text(f"base: {base}\n")
        with pytest.raises(ValueError, match="expected another recipe in the same directory"):
            load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("base: s.yaml\n")
    (tmp_path / "s.yaml").write_text("base: r.yaml\n")
    with pytest.raises(ValueError, match="expected another recipe in the same directory"):
        load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("base: absent.yaml\n")
    with pytest.raises(ValueError, match="expected a recipe at"):
        load_recipe(tmp_path / "r.yaml")
