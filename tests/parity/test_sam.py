"""Our two-way transformer is SAM's, as transformers has it."""

import re

import pytest
import torch
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamTwoWayTransformer

from pixellm.model.two_way import TwoWayTransformer

DIM, HEADS, MLP_DIM, GRID, TOKENS, TARGETS = 32, 4, 48, 5, 6, 3


def sam_name(ours: str) -> str:
    name = ours.replace(".mlp.0.", ".mlp.lin1.").replace(".mlp.2.", ".mlp.lin2.")
    name = name.replace("norm_final_attn", "layer_norm_final_attn")
    return re.sub(r"\.norm(\d)\.", r".layer_norm\1.", name)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_two_way_transformer(depth):
    torch.manual_seed(depth)
    config = SamMaskDecoderConfig(
        hidden_size=DIM, num_attention_heads=HEADS, mlp_dim=MLP_DIM, num_hidden_layers=depth, layer_norm_eps=1e-5
    )
    config._attn_implementation = "eager"
    theirs, ours = SamTwoWayTransformer(config).eval(), TwoWayTransformer(DIM, HEADS, MLP_DIM, depth).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = theirs.state_dict()
    assert {sam_name(key) for key in ours.state_dict()} == set(state)
    ours.load_state_dict({key: state[sam_name(key)] for key in ours.state_dict()})

    tokens, image = torch.randn(TARGETS, TOKENS, DIM), torch.randn(TARGETS, DIM, GRID, GRID)
    code = torch.randn(1, DIM, GRID, GRID)
    with torch.no_grad():
        expected_tokens, expected_image = theirs(tokens[:, None], image, code.expand(TARGETS, -1, -1, -1), None)[:2]
        got_tokens, got_image = ours(tokens, image.flatten(2).transpose(1, 2), code.flatten(2).transpose(1, 2))
    torch.testing.assert_close(got_tokens, expected_tokens[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got_image, expected_image[:, 0], atol=1e-5, rtol=1e-5)
