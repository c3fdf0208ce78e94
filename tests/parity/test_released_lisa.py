"""The released LISA's numbers, reproduced through the production converter (shared/reference_lisa/README.md)."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AddedToken, AutoModel, AutoProcessor, LlamaTokenizer
from transformers.models.sam.configuration_sam import SamConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamModel

from pixellm.baselines.lisa import LisaForConditionalGeneration, LisaImageProcessor
from pixellm.baselines.lisa.convert import LISA
from pixellm.baselines.presets import lisa_7b, lisa_13b
from pixellm.checkpoints.convert import check, convert
from pixellm.imaging import geometry
from pixellm.imaging.images import load_image
from pixellm.inference.generation import Sampling, encode_prefix, generate
from pixellm.model.modeling import IMAGE_TOKEN_ID
from pixellm.utils.weights import read_weights

GENERATIONS = {"landscape_one_mask": 1, "portrait_two_masks": 2}
SEG, EOS, FORBIDDEN = 511, 2, (0, 2, *range(503, 512))
TOLERANCE = 5e-4


@pytest.fixture(scope="module")
def released(shared):
    return shared / "reference_lisa"


@pytest.fixture(scope="module")
def ours(released, tmp_path_factory):
    out = tmp_path_factory.mktemp("lisa") / "ours"
    report = convert(released / "hf_model", out, released / "clip-tiny", [LISA])
    state = read_weights(released / "hf_model")
    assert {*report.used, *report.dropped} >= state.keys()
    assert not report.unknown
    assert check(out, [LISA]).complete
    return out


@pytest.mark.parametrize("name", GENERATIONS)
def test_generation(released, ours, name):
    data = load_file(released / f"{name}.safetensors")
    model = AutoModel.from_pretrained(ours, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(ours)
    assert isinstance(model, LisaForConditionalGeneration)
    assert isinstance(processor.image_processor, LisaImageProcessor)
    pixels = processor.images([load_image(data["image"].numpy())])
    torch.testing.assert_close(pixels["context_pixel_values"][0], data["clip_pixel_values"], atol=2e-6, rtol=0)
    assert pixels["resized_hw"][0].tolist() == data["resized_hw"].tolist()

    prompt = data["prompt_ids"].tolist()
    at = prompt.index(IMAGE_TOKEN_ID)
    prefix_ids = [*prompt[:at], *[IMAGE_TOKEN_ID] * processor.num_image_tokens, prompt[at + 1]]
    prefix = encode_prefix(
        model, pixels["pixel_values"], pixels["resized_hw"], prefix_ids, pixels["context_pixel_values"]
    )
    seen = prefix.images.maps[0][0, :, ::4, ::4]
    torch.testing.assert_close(seen, data["image_embeddings"], atol=TOLERANCE, rtol=0)

    wanted = data["sequence"].tolist()[len(prompt) :]

    def forced(ids, scores):
        """[SEG] and the end at fixed steps, everything else the greedy choice among text."""
        token = wanted[ids.shape[1] - (len(prompt) - 1)]
        scores = scores.clone()
        if token in (SEG, EOS):
            scores[:] = -torch.inf
            scores[:, token] = 0
        else:
            scores[:, FORBIDDEN] = -torch.inf
        return scores

    sampling = Sampling(max_new_tokens=len(wanted), processors=(forced,))
    steps = list(generate(model, prefix, [0], [prompt[at + 2 :]], processor.eos_ids, sampling))
    assert [i for step in steps for i in step.ids] == wanted[:-1]
    states = [step.states for step in steps if step.states is not None]
    assert len(states) == GENERATIONS[name]
    logits = model.decode_masks(prefix.images, torch.cat(states), torch.zeros(len(states), dtype=torch.long))
    torch.testing.assert_close(logits, data["low_res_logits"][:, 0], atol=TOLERANCE, rtol=0)
    full = geometry.restore(logits, tuple(data["resized_hw"].tolist()), tuple(data["image"].shape[:2]))
    torch.testing.assert_close(full[:, ::4, ::4], data["mask_logits"], atol=TOLERANCE, rtol=0)
    areas = (full > 0).flatten(1).sum(dim=1)
    assert (areas - data["mask_area"]).abs().max() <= 1e-5 * full[0].numel() + 2  # pixels whose logit is next to 0


@pytest.mark.parametrize(
    ("rows", "added", "expected"),
    [
        (512, (), {"<im_patch>": 503, "<im_start>": 504, "<im_end>": 505, "[SEG]": 511}),
        (507, (), {"<im_patch>": 503, "<im_start>": 504, "<im_end>": 505, "[SEG]": 506}),
        (506, (), {"[SEG]": 503, "<im_start>": 504, "<im_end>": 505}),  # LISA-13B
        (507, ("<im_patch>", "<im_start>", "<im_end>"), {"<im_end>": 505, "[SEG]": 506}),  # LISA-7B's base model
    ],
)
def test_a_base_models_tokenizer_is_completed(released, rows, added, expected):
    tokenizer = LlamaTokenizer.from_pretrained(released / "hf_model")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    LISA.extend(tokenizer, rows)
    assert len(tokenizer) == rows
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in expected} == expected


def test_missing_weights_are_refused(released, tmp_path):
    shutil.copytree(released / "hf_model", tmp_path / "lisa")
    file = tmp_path / "lisa" / "pytorch_model-00001-of-00001.bin"
    state = torch.load(file, weights_only=True)
    del state["model.visual_model.image_encoder.neck.0.weight"]
    file.chmod(0o644)
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"expected the weights of LISA's SAM"):
        convert(tmp_path / "lisa", tmp_path / "out", released / "clip-tiny", [LISA])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("preset", "projected", "adapted"), [(lisa_7b, 17.83, 4_194_304), (lisa_13b, 27.53, 6_553_600)]
)
def test_released_sizes(preset, projected, adapted):
    """Parameters of the released models (LISA's sizes as published and in its log)."""
    with torch.device("meta"):
        model = LisaForConditionalGeneration(preset())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["sam_encoder"] == 637_026_048
    assert counts["codebook"] / 1e6 == pytest.approx(projected, abs=0.01)
    assert sum(p.numel() for p in model.pixel_decoder.mask_decoder.parameters()) / 1e6 == pytest.approx(4.06, abs=0.01)
    text = model.config.text_config
    assert 2 * 8 * 2 * text.hidden_size * text.num_hidden_layers == adapted  # rank 8, query and value
    assert not any(p.requires_grad for p in model.sam_encoder.parameters())


def test_sams_names_are_those_of_transformers():
    """The 594 names of the original SAM, mapped, are all of transformers' model but what reads points and masks."""
    with torch.device("meta"):
        sam = SamModel(SamConfig(vision_config=SamVisionConfig(num_hidden_layers=2, global_attn_indexes=[1])))
        config = lisa_7b()
        config.sam_vision_config = SamVisionConfig(num_hidden_layers=2, global_attn_indexes=[1])
        config.text_config.num_hidden_layers = 1
        ours = LisaForConditionalGeneration(config)
    theirs = {key for key in sam.state_dict() if key.startswith(("vision_encoder.", "mask_decoder."))}
    mine = {
        key.replace("sam_encoder.", "vision_encoder.").replace("pixel_decoder.mask_decoder.", "mask_decoder.")
        for key in ours.state_dict()
        if key.startswith(("sam_encoder.", "pixel_decoder.mask_decoder."))
    }
    assert mine == theirs
