"""Model directories that are damaged or hostile: a ValueError that names the directory, at once."""

import json
import os
import shutil

import pytest
import torch

import pixellm
from pixellm.utils.model_files import expect_sizes, readable


@pytest.fixture(scope="module")
def saved(clip_model, clip_processor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    clip_model.save_pretrained(directory)
    clip_processor.save_pretrained(directory)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def change(file, path, value):
    settings = json.loads(file.read_text())
    *groups, name = path.split(".")
    part = settings
    for group in groups:
        part = part[group]
    part[name] = value
    file.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("path", "value", "pattern"),
    [
        ("num_mask_tokens", 10**9, "num_mask_tokens: expected a whole number from 1 to"),
        ("num_mask_tokens", 5, r"expected pixel_decoder\S* of shape"),
        ("decoder_depth", None, "decoder_depth: expected a whole number"),
        ("decoder_dim", "x", "decoder_dim: expected a whole number"),
        ("decoder_heads", 0, "decoder_heads: expected a whole number"),
        ("llm_grid", 10**9, "llm_grid: expected a whole number"),
        ("projector_ratio", None, "projector_ratio: expected a number"),
        ("codebook_ids", [1, 2, 3, 4, 5, 10**9], "codebook_ids: expected ids in"),
        ("text_config.num_hidden_layers", 10**7, "text_config.num_hidden_layers: expected a whole number"),
        ("text_config.num_hidden_layers", 1000, "expected the weights that"),
        ("text_config.vocab_size", -5, "text_config.vocab_size: expected a whole number"),
        ("text_config.vocab_size", 400, "of shape"),
        ("text_config.num_attention_heads", 0, "text_config.num_attention_heads: expected a whole number"),
        ("text_config.hidden_act", "nope", "config.json"),
        ("text_config", 5, "expected a config.json of a model"),
        ("vision_config.clip", 5, "expected a config.json of a model"),
        ("vision_config.clip.num_hidden_layers", 10**9, "num_hidden_layers: expected a whole number"),
    ],
)
def test_configurations(copy, path, value, pattern):
    change(copy / "config.json", path, value)
    with pytest.raises(ValueError, match=pattern if "hidden_act" not in path else r"expected the weights|config.json"):
        pixellm.load(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{}", "[]", "", '{"a":', "[" * 100_000])
def test_files(copy, name, content):
    (copy / name).write_text(content)
    if (name, content) == ("tokenizer_config.json", "{}"):
        return
    with pytest.raises(ValueError, match=f"expected a processor_config.json and a tokenizer in {copy}"):
        pixellm.load(copy)


@pytest.mark.parametrize(
    ("path", "value"), [("num_image_tokens", 10**9), ("codebook_tokens", 5), ("prompt", ""), ("prefix", "")]
)
def test_processors(copy, path, value):
    change(copy / "processor_config.json", path, value)
    with pytest.raises(ValueError, match=f"expected a processor_config.json .*in {copy}"):
        pixellm.load(copy)


def test_weights(copy):
    weights = copy / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    with pytest.raises(ValueError, match=r"as \*.safetensors in .*, got none"):
        pixellm.load(copy)
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"got only pytorch_model.bin, which may hold code"):
        pixellm.load(copy)
    os.symlink(weights.name, weights)
    with pytest.raises(ValueError, match="expected the weights of a model"):
        pixellm.load(copy)
    weights.unlink()
    weights.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="expected a file of plain tensors"):
        pixellm.load(copy)
    weights.unlink()
    for index in ("{}", "[]", '{"weight_map": {"a": 5}}', '{"weight_map": {"a": "../x.safetensors"}}'):
        (copy / "model.safetensors.index.json").write_text(index)
        with pytest.raises(ValueError, match=r"index.json"):
            pixellm.load(copy)


def test_sizes_may_be_left_out():
    expect_sizes({"hidden_size": None, "intermediate_size": [4, 8]})
    with pytest.raises(ValueError, match="hidden_size"):
        expect_sizes({"hidden_size": None}, required=("hidden_size",))
    for wrong in (True, 2.0, "3", 0, -1, 10**30):
        with pytest.raises(ValueError, match=r"part.vocab_size: expected a whole number"):
            expect_sizes({"vocab_size": wrong}, "part.")


@pytest.mark.parametrize("error", [MemoryError, ModuleNotFoundError])
def test_what_is_no_fault_of_the_files_stays(error):
    with pytest.raises(error), readable("here", "a file"):
        raise error
