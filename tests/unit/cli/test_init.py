"""`pixellm init`."""

import pytest
from typer.testing import CliRunner

from pixellm.cli import app
from pixellm.model.configuration import PixelLMConfig
from pixellm.utils.model_files import read_config
from tests.support.tiny_vlms import tiny_vlm


def test_init_writes_a_model_of_the_sizes_asked_for(tmp_path):
    base, processor = tiny_vlm("llava")
    base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    sizes = ["--scales", "3", "--tokens", "2", "--layers=-2,-3,-4", "--decoder-dim", "32", "--grid", "8"]
    result = CliRunner().invoke(app, ["init", str(tmp_path / "base"), str(tmp_path / "out"), *sizes])
    assert result.exit_code == 0, result.output
    config = read_config(tmp_path / "out")
    assert (config.num_scales, config.tokens_per_scale, config.decoder_dim, config.mask_grid) == (3, 2, 32, 8)
    assert config.vision_layers == [-2, -3, -4]


def test_init_refuses_other_models_and_layers(tmp_path):
    PixelLMConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has an adapter"):
        CliRunner().invoke(app, ["init", str(tmp_path), str(tmp_path / "out")], catch_exceptions=False)
    with pytest.raises(ValueError, match="--layers"):
        CliRunner().invoke(app, ["init", "base", "out", "--layers", "a"], catch_exceptions=False)
