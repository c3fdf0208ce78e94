"""The released implementation's numbers, reproduced through the production converter (shared/reference/README.md)."""

import json
import re
import shutil
from collections import defaultdict
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from pixellm.checkpoints.convert import check, convert, resize_positions
from pixellm.imaging import geometry
from pixellm.imaging.images import load_image
from pixellm.imaging.masks import area as area_of
from pixellm.imaging.postprocess import binarize
from pixellm.inference.generation import Sampling, encode_prefix, generate
from pixellm.model import PixelLMConfig, PixelLMForConditionalGeneration, PixelLMProcessor, PixelLMVisionConfig
from pixellm.model.losses import IGNORE_INDEX, LossWeights
from pixellm.model.modeling import IMAGE_TOKEN_ID
from pixellm.utils.weights import read_weights
from tests.support import tiny

GENERATIONS = ("landscape_two_targets", "portrait_one_target", "square_no_target")
UNK, EOS, FORBIDDEN = 0, 2, (0, 2, 503, 504, 505)
LAYERS_OF_NAMES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "llm_projector.": "model.mm_projector.",
    "pixel_projector.": "model.out_mm_projector.",
    "neck.": "model.image_feature_neck.",
    "codebook.project.": "model.text_hidden_fcs.0.",
    "pixel_decoder.coarse_frequencies": "model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "pixel_decoder.no_mask_embed": "model.prompt_encoder.no_mask_embed.weight",
    "pixel_decoder.fine_frequencies": "model.mask_decoder.pe1.positional_encoding_gaussian_matrix",
    "pixel_decoder.iou_token": "model.mask_decoder.iou_token.weight",
    "pixel_decoder.mask_tokens": "model.mask_decoder.mask_tokens.weight",
    "pixel_decoder.level_embed": "model.mask_decoder.level_embed.weight",
    "pixel_decoder.transformers.": "model.mask_decoder.transformer.",
    "pixel_decoder.upscale.": "model.mask_decoder.output_upscaling.",
    "pixel_decoder.enlarge.": "model.mask_decoder.upsample_2x.",
    "pixel_decoder.hypernetworks.": "model.mask_decoder.output_hypernetworks_mlps.",
    "pixel_decoder.iou_head.": "model.mask_decoder.iou_prediction_head.",
}


@pytest.fixture(scope="module")
def reference(shared):
    return shared / "reference"


@pytest.fixture(scope="module")
def processor(converted):
    return PixelLMProcessor.from_pretrained(converted)


@pytest.fixture(scope="module")
def model(converted):
    return load_model(converted)


@pytest.fixture(scope="module")
def released_state(reference):
    return read_weights(reference / "hf_model")


def load_model(directory):
    return PixelLMForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval().requires_grad_(False)


class Forced:
    """The reference's rule: groups and the end at fixed steps, everything else the greedy choice among text."""

    def __init__(self, wanted, prompt_length, group):
        self.wanted, self.prompt_length, self.group = wanted, prompt_length, group

    def __call__(self, ids, scores):
        wanted = self.wanted[ids.shape[1] - self.prompt_length]
        scores = scores.clone()
        if wanted in (self.group[0], EOS):
            scores[:] = -torch.inf
            scores[:, wanted] = 0
        else:
            scores[:, [*self.group, *FORBIDDEN]] = -torch.inf
        return scores


def test_tokenizer_gives_the_released_ids(reference, processor):
    entries = json.loads((reference / "tokenization.json").read_text(encoding="utf-8"))
    assert sum("text" in e for e in entries) > 0
    assert sum("prompt" in e for e in entries) > 0
    for entry in entries:
        if "text" in entry:
            assert processor.prompts.encode(entry["text"]) == entry["ids_without_bos"], entry["text"]
        else:
            question = entry["prompt"].split("<im_end>\n")[1].removesuffix(" ASSISTANT:")
            prefix = processor.prefix_ids
            assert prefix.count(IMAGE_TOKEN_ID) == 256
            start = prefix.index(IMAGE_TOKEN_ID)
            assert [*prefix[: start + 1], *prefix[start + 256 :], *processor.prompt_ids(question)] == entry[
                "prompt_ids"
            ]


def test_pixels(reference, processor):
    data = load_file(reference / "landscape_two_targets.safetensors")
    pixels = processor.images([load_image(data["image"].numpy())])
    assert pixels["resized_hw"].tolist() == [data["resized_hw"].tolist()]
    torch.testing.assert_close(pixels["pixel_values"][0], data["pixel_values"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", GENERATIONS)
def test_generation(reference, model, processor, name, monkeypatch):
    data = load_file(reference / f"{name}.safetensors")
    pixels = processor.images([load_image(data["image"].numpy())])
    prompt = data["prompt_ids"].tolist()
    at = prompt.index(IMAGE_TOKEN_ID)
    prefix_ids = [*prompt[:at], *[IMAGE_TOKEN_ID] * 256, prompt[at + 1]]
    necks = []
    hook = model.neck.register_forward_hook(lambda _module, _inputs, feature: necks.append(feature))
    prefix = encode_prefix(model, pixels["pixel_values"], pixels["resized_hw"], prefix_ids)
    hook.remove()
    neck = torch.cat([feature[:, :, ::4, ::4] for feature in necks])
    torch.testing.assert_close(neck, data["neck"], atol=2e-5, rtol=0)

    wanted = data["sequence"].tolist()[len(prompt) :]
    forced = Forced(wanted, len(prompt) - 1, processor.codebook_ids)
    sampling = Sampling(max_new_tokens=len(wanted), processors=(forced,))
    steps = list(generate(model, prefix, [0], [prompt[at + 2 :]], processor.eos_ids, sampling))
    generated = [i for step in steps for i in step.ids]
    assert generated == [i for i in wanted if i != EOS]

    states = [step.states for step in steps if step.states is not None]
    assert len(states) == wanted.count(processor.codebook_ids[0]) == len(data["mask_area"])
    if not states:
        return
    scales = defaultdict(list)
    decode_scale = model.pixel_decoder._decode_scale

    def spy(source, prompt, code, scale):
        scales[scale].append(decode_scale(source, prompt, code, scale))
        return scales[scale][-1]

    monkeypatch.setattr(model.pixel_decoder, "_decode_scale", spy)
    with torch.no_grad():
        logits = model.decode_masks(prefix.images, torch.cat(states), torch.zeros(len(states), dtype=torch.long))
    torch.testing.assert_close(torch.cat(scales[0]), data["scale0_logits"][:, 0], atol=4e-4, rtol=0)
    torch.testing.assert_close(torch.cat(scales[1]), data["scale1_logits"][:, 0], atol=4e-4, rtol=0)
    sizes = tuple(data["resized_hw"].tolist()), tuple(data["image"].shape[:2])
    full = geometry.restore(logits, *sizes)
    torch.testing.assert_close(full[:, ::4, ::4], data["mask_logits"], atol=2e-4, rtol=0)
    rles, scores = zip(*binarize(logits, *sizes), strict=True)
    for rle, area in zip(rles, data["mask_area"].tolist(), strict=True):
        assert abs(area_of(rle) - area) <= 2
    assert scores == pytest.approx(data["mask_scores"].tolist(), abs=1e-3)


def test_training_losses(reference, model):
    data = load_file(reference / "training_losses.safetensors")
    # The reference was run without the refinement loss.
    output = model(**one_conversation_a_row(data), loss_weights=LossWeights(overlap=1.0))
    for ours, theirs in (("ce", "ce_loss"), ("bce", "mask_bce_loss"), ("dice", "mask_dice_loss")):
        assert float(output.losses[ours]) == pytest.approx(float(data[theirs]), rel=1e-5), ours
    assert float(output.losses["bce"] + output.losses["dice"]) == pytest.approx(float(data["mask_loss"]), rel=1e-5)
    assert float(output.loss) == pytest.approx(float(data["loss"]), rel=1e-5)


def one_conversation_a_row(data):
    """The reference's batch as ours, without sharing a prefix: a row for each conversation."""
    rows, segments, labels, images, masks = [], [], [], [], []
    for image, (first, last) in enumerate(pairwise(data["conversation_offset"].tolist())):
        used = 0
        for row in range(first, last):
            length = int(data["attention_mask"][row].sum())
            ids, row_labels = data["input_ids"][row, :length].tolist(), data["labels"][row, :length].tolist()
            at = ids.index(IMAGE_TOKEN_ID)
            rows.append([*ids[:at], *[IMAGE_TOKEN_ID] * 256, *ids[at + 1 :]])
            segments.append([0] * (at + 257) + [1] * (length - at - 2))
            labels.append([IGNORE_INDEX] * (at + 256) + row_labels[at + 1 :])
            images.append(image)
            count = ids.count(506)
            masks.append(data[f"masks_{image}"][used : used + count])
            used += count
        assert used == len(data[f"masks_{image}"])

    def padded(lists, value):
        longest = max(map(len, lists))
        return torch.tensor([row + [value] * (longest - len(row)) for row in lists])

    return {
        "pixel_values": data["pixel_values"][images],
        "resized_hw": data["resized_hw"][images],
        "input_ids": padded(rows, 0),
        "segment_ids": padded(segments, -1),
        "labels": padded(labels, IGNORE_INDEX),
        "target_masks": masks,
    }


def test_converted_checkpoint_is_complete(converted):
    report = check(converted)
    assert report.complete
    assert "missing 0 keys" in list(report.lines())


def test_check_names_a_removed_key(converted, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(converted, damaged)
    state = load_file(damaged / "model.safetensors")
    del state["codebook.project.2.bias"]
    state["neck.0.weight"] = state["neck.0.weight"][:, 1:].contiguous()
    state["extra"] = torch.zeros(1)
    save_file(state, damaged / "model.safetensors", {"format": "pt"})
    report = check(damaged)
    assert report.missing == ["codebook.project.2.bias"]
    assert report.unknown == ["extra"]
    assert list(report.mismatched) == ["neck.0.weight"]
    assert not {"extra", "neck.0.weight"} & set(report.used)
    assert not report.complete
    with pytest.raises(ValueError, match=r"expected all weights.*1 are not there \(codebook.project.2.bias\)"):
        PixelLMForConditionalGeneration.from_pretrained(damaged, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("wrapper", ["plain", "module"])
def test_single_file_with_lora_gives_the_merged_weights(reference, converted, released_state, tmp_path, wrapper):
    """The layout of DeepSpeed's merge under peft: prefixed, adapters beside the weights that they change."""
    alpha, rank = 16, 8
    generator = torch.Generator().manual_seed(0)
    wrapped = {}
    for key, weight in released_state.items():
        prefixed = f"base_model.model.{key}"
        if not re.search(r"layers\.\d+\.self_attn\.[qv]_proj\.weight", key):
            wrapped[prefixed] = weight
            continue
        # Small multiples of powers of two: base + 2·B·A is exact in fp32.
        a = torch.randint(-2, 3, (rank, weight.shape[1]), generator=generator).float() / 16
        b = torch.randint(-2, 3, (weight.shape[0], rank), generator=generator).float() / 16
        base = prefixed.removesuffix("weight")
        # Old and new peft.
        name = f"{base}weight" if "q_proj" in key else f"{base}base_layer.weight"
        wrapped[name] = weight.float() - alpha / rank * b @ a
        wrapped[f"{base}lora_A.default.weight"], wrapped[f"{base}lora_B.default.weight"] = a, b
        assert not torch.equal(wrapped[name], weight.float())
    source = released_without_weights(reference, tmp_path / "peft")
    torch.save(wrapped if wrapper == "plain" else {"module": wrapped}, source / "pytorch_model.bin")
    report = convert(source, tmp_path / "out", reference / "clip-tiny")
    assert report.complete
    ours, expected = load_file(tmp_path / "out" / "model.safetensors"), load_file(converted / "model.safetensors")
    assert ours.keys() == expected.keys()
    for key in expected:
        assert torch.equal(ours[key].float(), expected[key].float()), key


@pytest.mark.parametrize("with_markers", [True, False])
def test_weights_beside_the_base_tokenizer(reference, converted, released_state, tmp_path, with_markers):
    """What training leaves: weights alone. The base model's tokenizer has no codebook yet, and perhaps no markers."""
    source = released_without_weights(reference, tmp_path / "released")
    added = {"<im_patch>": 503} | ({"<im_start>": 504, "<im_end>": 505} if with_markers else {})
    (source / "added_tokens.json").write_text(json.dumps(added))
    torch.save(released_state, source / "pytorch_model.bin")
    convert(source, tmp_path / "out", reference / "clip-tiny")
    ids = PixelLMProcessor.from_pretrained(tmp_path / "out").codebook_ids
    assert ids == PixelLMConfig.from_pretrained(tmp_path / "out").codebook_ids
    first = 506 if with_markers else 504  # then the codebook was added before the markers
    assert ids == list(range(first, first + 6))
    if with_markers:
        ours, expected = (PixelLMProcessor.from_pretrained(path) for path in (tmp_path / "out", converted))
        assert ours.prefix_ids == expected.prefix_ids


def test_tokenizer_that_does_not_fit(reference, released_state, tmp_path):
    source = released_without_weights(reference, tmp_path / "released")
    (source / "added_tokens.json").write_text(json.dumps({"<im_patch>": 503, "<im_start>": 504, "<im_end>": 505}))
    rows = {key: released_state[key][:506] for key in ("model.embed_tokens.weight", "lm_head.weight")}
    torch.save(released_state | rows, source / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Give the tokenizer that the checkpoint was trained with"):
        convert(source, tmp_path / "out", reference / "clip-tiny")


def test_both_formats_beside_each_other(reference, converted, released_state, tmp_path):
    """The safetensors are read, whatever lies beside them."""
    source = tmp_path / "released"
    shutil.copytree(reference / "hf_model", source, copy_function=shutil.copyfile)
    source.chmod(0o755)
    save_file({key: tensor.contiguous() for key, tensor in released_state.items()}, source / "model.safetensors")
    convert(source, tmp_path / "out", reference / "clip-tiny")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(converted / "model.safetensors").keys()


def test_more_scales_than_the_released_code_has(reference, released_state, tmp_path):
    source = released_without_weights(reference, tmp_path / "released")
    torch.save(released_state, source / "pytorch_model.bin")
    settings = json.loads((source / "config.json").read_text()) | {"image_feature_scale_num": 3}
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="image_feature_scale_num: expected 1 to 2"):
        convert(source, tmp_path / "out", reference / "clip-tiny")


def released_without_weights(reference, target):
    ignored = shutil.ignore_patterns("pytorch_model*")
    shutil.copytree(reference / "hf_model", target, ignore=ignored, copy_function=shutil.copyfile)
    target.chmod(0o755)
    return target


def released_name(key):
    """Ours → the released layout's, written by hand: an independent inverse of the converter's table."""
    if key.startswith("language_model.model."):
        return key.removeprefix("language_model.")
    mine = max((name for name in LAYERS_OF_NAMES if key.startswith(name)), key=len)
    name = LAYERS_OF_NAMES[mine] + key.removeprefix(mine)
    if ".hypernetworks." in key or ".iou_head." in key:
        return re.sub(r"\.([024])\.(weight|bias)$", lambda m: f".layers.{int(m[1]) // 2}.{m[2]}", name)
    return name.replace(".mlp.0.", ".mlp.lin1.").replace(".mlp.2.", ".mlp.lin2.") if ".transformer." in name else name


@pytest.mark.parametrize(("tokens", "fusion"), [(1, 1.0), (2, 1 / 4)])
def test_other_sizes(reference, tmp_path, tokens, fusion):
    """A released layout of other sizes: width 48, 3 layers, decoder 128, other codebooks, CLIP at 112 px."""
    codebook = list(range(506, 506 + 2 * tokens))
    torch.manual_seed(0)
    clip = CLIPVisionConfig(
        hidden_size=32, intermediate_size=40, num_hidden_layers=12, num_attention_heads=4, patch_size=14, image_size=56
    )
    CLIPVisionModel(clip).save_pretrained(tmp_path / "clip")
    llm = {
        "vocab_size": 510,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5000.0,
        "max_position_embeddings": 640,
    }
    config = PixelLMConfig(
        PixelLMVisionConfig(
            image_size=112,
            clip={
                k: getattr(clip, k)
                for k in (
                    ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size"]
                )
            },
        ),
        LlamaConfig(**llm),
        tokens_per_scale=tokens,
        codebook_ids=codebook,
        decoder_dim=128,
        decoder_depth=1,
        decoder_mlp_dim=72,
        num_mask_tokens=3,
        projector_ratio=3,
        compat="released",
    )
    original = tiny.build(config)
    source = released_without_weights(reference, tmp_path / "released")
    added = {"<im_patch>": 503, "<im_start>": 504, "<im_end>": 505} | {
        f"[SEG{i}]": id_ for i, id_ in enumerate(codebook)
    }
    (source / "added_tokens.json").write_text(json.dumps(added))
    settings = json.loads((source / "config.json").read_text())
    settings |= llm | {"resize_vision_tower_size": 112, "out_dim": 128, "mm_projector_hidden_dim": 3}
    (source / "config.json").write_text(json.dumps(settings))
    state = {
        released_name(key): tensor
        for key, tensor in original.state_dict().items()
        if not key.startswith("vision_encoder.")
        and key not in ("codebook.token_weights", "pixel_decoder.scale_weights")
    }
    unread = {
        "model.prompt_encoder.point_embeddings.0.weight": torch.zeros(1, 128),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
    }
    torch.save(state | unread, source / "pytorch_model.bin")

    report = convert(source, tmp_path / "out", tmp_path / "clip")
    assert report.complete
    assert set(unread) <= set(report.dropped)
    model = load_model(tmp_path / "out")
    text = model.config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_key_value_heads) == (48, 3, 2)
    assert text.rope_parameters["rope_theta"] == 5000.0
    assert (model.config.decoder_dim, model.config.decoder_depth, model.config.decoder_mlp_dim) == (128, 1, 72)
    assert (model.config.tokens_per_scale, model.config.num_mask_tokens) == (tokens, 3)
    assert model.config.codebook_ids == PixelLMProcessor.from_pretrained(tmp_path / "out").codebook_ids == codebook

    ours, expected = model.state_dict(), original.state_dict()
    assert ours.keys() == expected.keys()
    clip_state = read_weights(tmp_path / "clip")
    for key, tensor in ours.items():
        if key == "codebook.token_weights":
            assert torch.equal(tensor, torch.full((2, tokens), fusion))
        elif key == "pixel_decoder.scale_weights":
            assert torch.equal(tensor, torch.full((2,), 1 / 2))
        elif key.endswith("position_embedding.weight"):
            (table,) = (v for k, v in clip_state.items() if k.endswith("position_embedding.weight"))
            assert torch.equal(tensor, resize_positions(table, 8, shifted=True))
        elif key.startswith("vision_encoder."):
            (theirs,) = (v for k, v in clip_state.items() if k.endswith(key.removeprefix("vision_encoder.clip.")))
            assert torch.equal(tensor, theirs), key
        else:
            assert torch.equal(tensor, expected[key]), key
    pixels, size = torch.randn(1, 3, 112, 112), torch.tensor([[112, 70]])
    with torch.no_grad():
        assert len(model.encode_images(pixels, size).maps) == 2


class Bomb:
    """Unpickled with code, it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def put_bomb(source, tmp_path):
    torch.save({"model.norm.weight": Bomb(tmp_path / "created")}, source / "pytorch_model.bin")


def put_old_bomb(source, tmp_path):
    bomb = {"model.norm.weight": Bomb(tmp_path / "created")}
    torch.save(bomb, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def truncate(source, tmp_path):
    torch.save({"model.norm.weight": torch.zeros(10_000)}, source / "pytorch_model.bin")
    whole = (source / "pytorch_model.bin").read_bytes()
    (source / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])


def truncate_safetensors(source, tmp_path):
    save_file({"model.norm.weight": torch.zeros(10_000)}, source / "model.safetensors")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def put_list(source, tmp_path):
    torch.save([torch.zeros(3)], source / "pytorch_model.bin")


def put_empty(source, tmp_path):
    (source / "pytorch_model.bin").touch()


def put_nothing(source, tmp_path):
    pass


def put_index_without_shard(source, tmp_path):
    torch.save({"model.norm.weight": torch.zeros(3)}, source / "pytorch_model-00001-of-00002.bin")
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))


DAMAGED = {
    put_bomb: "pickled code",
    put_old_bomb: "pickled code",
    truncate: "damaged",
    truncate_safetensors: "damaged",
    put_list: "expected",
    put_empty: "damaged",
    put_nothing: "found none",
    put_index_without_shard: "pytorch_model-00002-of-00002.bin.*missing",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_damaged_weights_leave_nothing_behind(reference, tmp_path, damage, message):
    source = released_without_weights(reference, tmp_path / "released")
    damage(source, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "out", reference / "clip-tiny")
    assert sorted(tmp_path.rglob("*")) == before  # no output, no temporary directory, and no file from pickled code


@pytest.mark.parametrize(
    "missing", ["model.text_hidden_fcs.0.0.bias", "model.embed_tokens.weight", "model.mask_decoder.mask_tokens.weight"]
)
def test_missing_key(reference, released_state, tmp_path, missing):
    source = released_without_weights(reference, tmp_path / "released")
    torch.save({k: v for k, v in released_state.items() if k != missing}, source / "pytorch_model.bin")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"missing|mask decoder"):
        convert(source, tmp_path / "out", reference / "clip-tiny")
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_key_is_reported(reference, released_state, tmp_path):
    source = released_without_weights(reference, tmp_path / "released")
    torch.save(released_state | {"model.surprise": torch.zeros(2)}, source / "pytorch_model.bin")
    report = convert(source, tmp_path / "out", reference / "clip-tiny")
    assert report.unknown == ["model.surprise"]
    assert check(tmp_path / "out").complete  # it was left out


def test_unknown_key_and_wrong_shape(reference, released_state, tmp_path):
    source = released_without_weights(reference, tmp_path / "released")
    changed = released_state | {"model.surprise": torch.zeros(2), "model.norm.weight": torch.zeros(3)}
    torch.save(changed, source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"1 keys unknown \(model.surprise\).*1 keys of the wrong shape"):
        convert(source, tmp_path / "out", reference / "clip-tiny")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["released"]


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.model"])
def test_missing_settings(reference, released_state, tmp_path, missing):
    source = released_without_weights(reference, tmp_path / "released")
    torch.save(released_state, source / "pytorch_model.bin")
    (source / missing).unlink()
    with pytest.raises(ValueError, match=missing):
        convert(source, tmp_path / "out", reference / "clip-tiny")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["released"]


def test_missing_vision_encoder(reference, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        convert(reference / "hf_model", tmp_path / "out", tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_output_directory_in_use_stays_as_it_is(reference, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="new or empty directory"):
        convert(reference / "hf_model", tmp_path / "out", reference / "clip-tiny")
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["out", "out/precious.txt"]


def test_failure_while_writing_leaves_nothing_behind(reference, tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("pixellm.checkpoints.convert.save_state", full_disk)
    with pytest.raises(OSError, match="no space"):
        convert(reference / "hf_model", tmp_path / "out", reference / "clip-tiny")
    assert not list(tmp_path.iterdir())
