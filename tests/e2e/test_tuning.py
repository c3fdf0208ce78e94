"""Training on data sets of records: fine-tuning, from parts, interrupted and resumed, merged."""

import json
import logging
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard, RepoUrl
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModel, CLIPVisionModel, LlamaForCausalLM

from pixellm import cli
from pixellm.data.mixture import ChatSamples
from pixellm.hub.presets import PRESETS
from pixellm.model import PixelLMProcessor
from pixellm.segmenter import load
from pixellm.train import run as training
from pixellm.train.recipe import AdapterConfig, ModelSource, Recipe, TrainingData, TrainingStage
from pixellm.train.trainer import PixelLMTrainer, last_checkpoint
from pixellm.training import KNOWN_MODELS, load_recipe, run
from pixellm.types import Sample
from tests.support import tiny, trees

STEPS, SAVE = 6, 2


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A JSONL of six pictures with answers of none, one and two masks."""
    rows = []
    for number in range(6):
        name = trees.photograph(tmp_path / f"data/{number}.png", (40 - number, 30)).name
        boxes = [[5, 5, 15, 5, 15, 15, 5, 15], [20, 5, 30, 5, 30, 20, 20, 20]][: number % 3]
        answer = ["Nothing.", "The dog {seg}.", "The dog {seg} and the cat {seg}."][number % 3]
        rows.append({"image": name, "question": "Where is the dog?", "answer": answer, "masks": [[b] for b in boxes]})
        rows.append({"image": name, "question": "What is it?", "answer": "It is a table.", "masks": []})
    path = tmp_path / "data/my.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(params=["clip", "timm"])
def model(request, tmp_path) -> Path:
    """A whole model in a directory."""
    pair = [request.getfixturevalue(f"{request.param}_{part}") for part in ("model", "processor")]
    for part in pair:
        part.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def recipe(photographs: Path, source: ModelSource, **changes) -> Recipe:
    settings = {"steps": STEPS, "batch_size": 4, "device_batch_size": 2, "learning_rate": 1e-2, "warmup_steps": 1}
    settings |= {
        "save_steps": SAVE,
        "logging_steps": 1,
        "workers": 0,
        "bf16": False,
        "rates": {"lora_": 0.1},
        "ema": 0.5,
    }
    data = TrainingData({str(photographs): 1.0}, photographs.parent)
    return Recipe(
        "tiny", source, data, TrainingStage(**{**settings, **changes}), AdapterConfig(rank=2, alpha=4, dropout=0.1)
    )


def losses(output: Path) -> list[float]:
    history = json.loads((output / "checkpoints/trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_the_result_is_a_whole_model(photographs, model, tmp_path, caplog) -> None:
    """Its untrained weights are those it started from, bit by bit, and it answers from its directory alone."""
    caplog.set_level(logging.INFO, "pixellm")
    result = training.train(recipe(photographs, ModelSource(str(model))), tmp_path / "run", KNOWN_MODELS)
    before, after = load_file(model / "model.safetensors"), load_file(result / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not any(key.startswith("vision_encoder.") for key in changed)
    assert any("q_proj" in key for key in changed)
    assert any(key.startswith("pixel_decoder.") for key in changed)
    config = AutoModel.from_pretrained(result).config
    rows = torch.tensor([i in config.codebook_ids for i in range(config.text_config.vocab_size)])
    table = "language_model.model.embed_tokens.weight"
    assert torch.equal(before[table][~rows], after[table][~rows])
    assert not torch.equal(before[table][rows], after[table][rows])
    predictor = load(result)
    predictor.set_image(tiny.picture(40, 30))
    assert predictor.ask("Where is the dog?", max_new_tokens=4).question
    assert "samples of an epoch" in caplog.text
    assert "pixel_decoder" in caplog.text


def test_merged_equals_adapted(photographs, model, tmp_path, monkeypatch) -> None:
    """What was trained and what is saved give the same losses."""
    kept = []
    adapt = training.adapt
    monkeypatch.setattr(training, "adapt", lambda m, *a: (kept.append(m), adapt(m, *a)))
    result = training.train(recipe(photographs, ModelSource(str(model))), tmp_path / "run", KNOWN_MODELS)
    merged = AutoModel.from_pretrained(result).eval()
    adapted = kept[0].eval()
    inputs = torch.randn(1, 5, merged.config.text_config.hidden_size)
    ids = torch.tensor([merged.config.codebook_ids])
    with torch.no_grad():
        assert torch.allclose(
            merged.language_model(inputs_embeds=inputs).logits,
            adapted.language_model(inputs_embeds=inputs).logits,
            atol=1e-4,
        )
        assert torch.allclose(merged.get_input_embeddings()(ids), adapted.get_input_embeddings()(ids))


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("model", ["clip"], indirect=True)
@pytest.mark.parametrize("at", [3, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 5))])
def test_resumed_equals_uninterrupted(photographs, model, tmp_path, monkeypatch, at) -> None:
    """Losses and weights, dropout included, wherever it stopped."""
    described = recipe(photographs, ModelSource(str(model)))
    whole = training.train(described, tmp_path / "whole", KNOWN_MODELS)
    step, taken = PixelLMTrainer.training_step, 0

    def stopping(self, *args, **kwargs):
        nonlocal taken
        if taken == 2 * at:  # two batches a step
            raise InterruptedRunError
        taken += 1
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(PixelLMTrainer, "training_step", stopping)
        with pytest.raises(InterruptedRunError):
            training.train(described, tmp_path / "resumed", KNOWN_MODELS)
    resumed = training.train(described, tmp_path / "resumed", KNOWN_MODELS)
    for key, tensor in load_file(whole / "model.safetensors").items():
        assert torch.equal(tensor, load_file(resumed / "model.safetensors")[key]), key


@pytest.mark.parametrize("model", ["clip"], indirect=True)
def test_an_unfinished_checkpoint_is_passed_over(photographs, model, tmp_path, monkeypatch) -> None:
    """As when the disk is full or the process is killed while saving: the one before is used."""
    described = recipe(photographs, ModelSource(str(model)))
    save = PixelLMTrainer._save_optimizer_and_scheduler

    def full(self, directory):
        if self.state.global_step == 2 * SAVE:
            raise OSError(28, "No space left on device")
        save(self, directory)

    with monkeypatch.context() as patched:
        patched.setattr(PixelLMTrainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(OSError, match="No space left"):
            training.train(described, tmp_path / "run", KNOWN_MODELS)
    checkpoints = tmp_path / "run/checkpoints"
    assert (checkpoints / f"checkpoint-{2 * SAVE}").is_dir()
    assert last_checkpoint(checkpoints) == checkpoints / f"checkpoint-{SAVE}"
    resumed = training.train(described, tmp_path / "run", KNOWN_MODELS)
    whole = training.train(described, tmp_path / "whole", KNOWN_MODELS)
    for key, tensor in load_file(whole / "model.safetensors").items():
        assert torch.equal(tensor, load_file(resumed / "model.safetensors")[key]), key


@pytest.mark.parametrize("model", ["clip"], indirect=True)
def test_how_a_step_is_split_does_not_matter(photographs, model, tmp_path) -> None:
    """One batch of four is as good as two of two or four of one (fp32, without dropout)."""
    logged = []
    for size in (4, 2, 1):
        described = recipe(photographs, ModelSource(str(model)), device_batch_size=size, rates={})
        described = replace(described, lora=AdapterConfig(rank=2, alpha=4))
        training.train(described, tmp_path / f"by {size}", KNOWN_MODELS)
        logged.append(losses(tmp_path / f"by {size}"))
    assert len(logged[0]) == STEPS
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)
    assert logged[2] == pytest.approx(logged[0], rel=1e-5)


@pytest.mark.parametrize("model", ["clip"], indirect=True)
def test_a_loss_that_is_no_number_stops_the_training(photographs, model, tmp_path) -> None:
    described = recipe(photographs, ModelSource(str(model)), learning_rate=1e30, rates={})
    with pytest.raises(FloatingPointError, match=r"step \d: the loss is no longer a number \(ce "):
        training.train(described, tmp_path / "run", KNOWN_MODELS)


@pytest.mark.parametrize("model", ["clip"], indirect=True)
def test_an_unreadable_image_stops_the_training_with_its_name(photographs, model, tmp_path) -> None:
    (photographs.parent / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"record 3\.png: expected an image"):
        training.train(recipe(photographs, ModelSource(str(model))), tmp_path / "run", KNOWN_MODELS)


@pytest.mark.parametrize("model", ["clip"], indirect=True)
def test_a_worker_that_dies_stops_the_training_which_goes_on_later(photographs, model, tmp_path, monkeypatch) -> None:
    """As when the system kills it for its memory."""
    described = recipe(photographs, ModelSource(str(model)), workers=1)
    read = ChatSamples.__getitem__

    def dying(self: ChatSamples, index: int) -> Sample:
        if index == 4 * 4:  # of the fifth step
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(ChatSamples, "__getitem__", dying)
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            training.train(described, tmp_path / "run", KNOWN_MODELS)
    assert last_checkpoint(tmp_path / "run/checkpoints") is not None
    training.train(described, tmp_path / "run", KNOWN_MODELS)
    training.train(described, tmp_path / "unbroken", KNOWN_MODELS)
    assert losses(tmp_path / "run") == losses(tmp_path / "unbroken")


@pytest.fixture
def parts(tmp_path) -> ModelSource:
    """A tiny language model with its tokenizer, and a tiny CLIP encoder of another image size."""
    torch.manual_seed(0)
    tokenizer = tiny.tiny_tokenizer(codebook=False)
    text = tiny.text_config()
    text.vocab_size = len(tokenizer)
    LlamaForCausalLM(text).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    vision = tiny.clip_config().vision_config.clip_config
    vision.image_size = 28
    CLIPVisionModel(vision).save_pretrained(tmp_path / "clip")
    settings = {"llm_grid": 2, "decoder_dim": 32, "decoder_mlp_dim": 48, "num_scales": 2, "tokens_per_scale": 2}
    return ModelSource(None, "pixellm-7b", str(tmp_path / "llm"), str(tmp_path / "clip"), settings=settings)


def test_from_a_language_model_and_a_clip(photographs, parts, tmp_path) -> None:
    """Base weights are kept; the encoder runs at the preset's image size."""
    vision = {"vision_config": {"image_size": 56, "clip": tiny.CLIP_SIZES, "hidden_layers": [-2, -3]}}
    described = recipe(photographs, replace(parts, settings={**parts.settings, **vision}), gradient_checkpointing=True)
    result = training.train(described, tmp_path / "run", KNOWN_MODELS)
    predictor = load(result)
    config = predictor.model.config
    assert config.codebook_ids == predictor.processor.codebook_ids
    assert (len(config.codebook_ids), config.vision_config.image_size) == (4, 56)
    base = LlamaForCausalLM.from_pretrained(parts.language_model).model.embed_tokens.weight
    assert torch.equal(predictor.model.get_input_embeddings().weight[: len(base)], base)
    clip = CLIPVisionModel.from_pretrained(parts.vision_model).state_dict()
    key = next(key for key in clip if "fc1.weight" in key)
    assert torch.equal(predictor.model.vision_encoder.clip.state_dict()[key], clip[key])


def test_from_some_layers_and_another_models_encoder(parts, timm_model, timm_processor, tmp_path, monkeypatch) -> None:
    """The encoder comes with what reads it; codebook and pixel decoder are new."""
    for part in (timm_model, timm_processor):
        part.save_pretrained(tmp_path / "seeing")
    monkeypatch.setitem(PRESETS, "tiny", tiny.timm_config)
    settings = {"text_config": {"num_hidden_layers": 1}, "num_scales": 2, "tokens_per_scale": 1, "num_candidates": 0}
    described = ModelSource(None, "tiny", parts.language_model, str(tmp_path / "seeing"), settings=settings)
    model, processor = KNOWN_MODELS.open(described).load(0)
    assert processor.image_processor.image_mean == timm_processor.image_processor.image_mean
    assert len(model.config.codebook_ids) == len(processor.codebook_ids) == 2
    assert model.config.decoder_grids == [4, 8]
    theirs, ours = timm_model.state_dict(), model.state_dict()
    same = {key for key in ours if key in theirs and torch.equal(ours[key], theirs[key])}
    kept = {"vision_encoder", "pixel_projector", "neck"}
    assert {key for key in ours if key.split(".")[0] in kept} <= same
    assert "class_prompts.to_pixels.weight" in same
    assert not any("transformers" in key and key.endswith("q_proj.weight") for key in same)
    base = LlamaForCausalLM.from_pretrained(parts.language_model).state_dict()
    key = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(ours[f"language_model.{key}"], base[key])
    assert not any(".layers.1." in key for key in ours if key.startswith("language_model."))


@pytest.mark.parametrize("model", ["timm"], indirect=True)
def test_held_out_questions_while_it_trains(photographs, model, tmp_path, capsys) -> None:
    """Answers every few steps and at the end: figures, pictures, TensorBoard; training goes on as if unasked."""
    described = recipe(photographs, ModelSource(str(model)))
    training.train(described, tmp_path / "unasked", KNOWN_MODELS)
    validation = TrainingData({str(photographs): 1.0}, photographs.parent, epoch_length=3)
    asked = replace(described, validation=validation, stage=replace(described.stage, eval_steps=4))
    training.train(asked, tmp_path / "run", KNOWN_MODELS)
    assert losses(tmp_path / "run") == losses(tmp_path / "unasked")
    history = json.loads((tmp_path / "run/checkpoints/trainer_state.json").read_text())["log_history"]
    answered = [row for row in history if "eval_giou" in row]
    assert [row["step"] for row in answered] == [4, STEPS]
    told = json.loads((tmp_path / "run/run.json").read_text())
    assert (told["recipe"]["name"], told["recipe"]["seed"]) == ("tiny", 0)
    with pytest.raises(ValueError, match="expected a run of tiny with the seed 1, got one of tiny with the seed 0"):
        training.train(replace(asked, seed=1), tmp_path / "run", KNOWN_MODELS)
    assert told["metrics"] == {k[5:]: v for k, v in answered[-1].items() if k.startswith("eval_")}
    sheets = sorted(path.name for path in (tmp_path / "run/validation").iterdir())
    assert sheets == ["step-000004.jpg", "step-000006.jpg"]
    (events,) = (tmp_path / "run/checkpoints/runs").rglob("events*")
    board = EventAccumulator(str(events.parent)).Reload()
    assert [image.step for image in board.Images("answers")] == [4, 6]
    assert {"train/loss", "train/loss_dice", "eval/giou"} <= set(board.Tags()["scalars"])
    assert "s a step, about" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["clip"], indirect=True)
def test_what_a_checkpoint_lacks_is_said(photographs, model, tmp_path) -> None:
    described = recipe(photographs, ModelSource(str(model)), ema=0.0)
    result = training.train(described, tmp_path / "run", KNOWN_MODELS)
    shutil.rmtree(result)
    with pytest.raises(ValueError, match="ema: expected an average of the weights in"):
        training.train(replace(described, stage=replace(described.stage, ema=0.5)), tmp_path / "run", KNOWN_MODELS)
    (tmp_path / f"run/checkpoints/checkpoint-{STEPS}/optimizer.pt").unlink()
    with pytest.raises(ValueError, match="expected to resume with DeepSpeed, as"):
        training.train(described, tmp_path / "run", KNOWN_MODELS)


@pytest.mark.parametrize("model", ["clip"], indirect=True)
def test_a_trained_model_can_be_pushed(model, tmp_path, monkeypatch) -> None:
    """As everywhere in transformers: its files and its processor's go to the Hub in commits."""
    sent: dict[str, bytes] = {}

    def commit(_: HfApi, repo_id: str, operations: list, **__: object) -> CommitInfo:
        for operation in operations:
            with operation.as_file() as stream:
                sent[operation.path_in_repo] = stream.read()
        url = f"https://huggingface.co/{repo_id}/commit/0"
        return CommitInfo(commit_url=url, commit_message="", commit_description="", oid="0")

    monkeypatch.setattr(HfApi, "create_commit", commit)
    monkeypatch.setattr(HfApi, "create_repo", lambda _, repo_id, **__: RepoUrl(f"https://huggingface.co/{repo_id}"))
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: ModelCard("# Mine"))
    AutoModel.from_pretrained(model).push_to_hub("someone/mine")
    PixelLMProcessor.from_pretrained(model).push_to_hub("someone/mine")
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    for name, content in sent.items():
        (fetched / name).write_bytes(content)
    predictor = load(fetched)
    before = load_file(model / "model.safetensors")
    assert all(torch.equal(tensor, before[key]) for key, tensor in load_file(fetched / "model.safetensors").items())
    predictor.set_image(tiny.picture(40, 30))
    assert predictor.ask("Where is the dog?", max_new_tokens=3).question


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": None}, "expected a model, or a preset with"),
        ({"preset": "pixellm-9b"}, "expected a preset, got 'pixellm-9b'"),
        ({"settings": {"text_config": {"num_hidden_layers": 9}}}, "at most the 2 layers of the language model, got 9"),
        ({"settings": {"text_config": {"num_hiden_layers": 1}}}, "did you mean num_hidden_layers"),
        ({"settings": {"decodr_dim": 2}}, r"settings: unknown fields decodr_dim \(did you mean decoder_dim\?\)"),
    ],
)
def test_bad_starts(parts, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        KNOWN_MODELS.open(replace(parts, **change)).load(0)


def test_batches_have_to_fit_the_processes(photographs, tmp_path) -> None:
    with pytest.raises(ValueError, match="expected a multiple of device_batch_size × processes = 3 × 1, got 4"):
        training.train(recipe(photographs, ModelSource("x"), device_batch_size=3), tmp_path / "run", KNOWN_MODELS)


def test_an_interrupted_save_of_the_result_leaves_none(
    photographs, tmp_path, clip_model, clip_processor, monkeypatch
) -> None:
    for part in (clip_model, clip_processor):
        part.save_pretrained(tmp_path / "start")
    described = recipe(photographs, ModelSource(str(tmp_path / "start")))

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(clip_processor), "save_pretrained", full)
        with pytest.raises(OSError, match="No space"):
            training.train(described, tmp_path / "run", KNOWN_MODELS)
    assert not (tmp_path / "run/model").exists()
    assert training.train(described, tmp_path / "run", KNOWN_MODELS).is_dir()


def test_recipes_describe_everything(tmp_path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: x\ninitialise: {model: pixellm-mini}\n"
        "data: {root: ../data, sets: {muse: 4, my.jsonl: 1}, chat: {questions: 2}}\n"
        "stage: {steps: 5, batch_size: 4, learning_rate: 1e-4, rates: {lora_: 1e-3}, betas: [0.9, 0.99]}\n"
    )
    read = load_recipe(path)
    assert isinstance(read, Recipe)
    assert read.data.root == (tmp_path / "../data").resolve()
    assert read.data.sets == {"muse": 4, str(tmp_path / "my.jsonl"): 1}
    assert read.data.chat.questions == 2
    assert read.stage.betas == (0.9, 0.99)
    assert (read.stage.learning_rate, read.stage.rates) == (1e-4, {"lora_": 1e-3})  # for YAML, 1e-4 is a text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size", "bacth_size", r"stage: unknown fields bacth_size \(did you mean batch_size\?\)"),
        ("questions", "question", r"data: chat: unknown fields question \(did you mean questions\?\)"),
        ("{muse: 4}", "{}", "expected at least one data set"),
        ("steps: 5, ", "", "stage: .*steps"),
        ("steps: 5", "steps: many", "stage: steps: expected a valid integer, .*got 'many'"),
        ("1.0e-4", "fast", "learning_rate: expected a valid number, .*got 'fast'"),
        ("{muse: 4}", "[muse]", "data: sets: expected a valid dictionary"),
    ],
)
def test_bad_recipes(tmp_path, old, new, message) -> None:
    text = (
        "name: x\ninitialise: {model: pixellm-mini}\ndata: {sets: {muse: 4}, chat: {questions: 2}}\n"
        "stage: {steps: 5, batch_size: 4, learning_rate: 1.0e-4}\n"
    )
    path = tmp_path / "r.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_former_names_of_fields_are_read_with_a_note(tmp_path, caplog) -> None:
    """Also where a recipe with former names is based on one with the present names."""
    (tmp_path / "base.yaml").write_text(
        "name: x\ninitialise: {model: pixellm-mini, settings: {num_scales: 2}}\ndata: {sets: {muse: 4}}\n"
        "stage: {steps: 5, batch_size: 4, learning_rate: 1.0e-4, ema: 0.5}\n"
    )
    path = tmp_path / "r.yaml"
    path.write_text("base: base.yaml\nstart: {settings: {llm_grid: 3}}\nstage: {average: 0.9}\n")
    read = load_recipe(path)
    assert read.initialise.model == "pixellm-mini"
    assert read.initialise.settings == {"num_scales": 2, "llm_grid": 3}
    assert read.stage.ema == 0.9
    assert "start is now called initialise" in caplog.text
    assert "stage.average is now called stage.ema" in caplog.text


def test_restart_empties_the_run_but_not_under_several_processes(photographs, tmp_path, monkeypatch) -> None:
    old = tmp_path / "run/old"
    old.mkdir(parents=True)
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: x\ninitialise: {model: absent/}\ndata: {sets: {data/my.jsonl: 1}}\n"
        "stage: {steps: 1, batch_size: 2, learning_rate: 1e-4}\n"
    )
    with monkeypatch.context() as several:
        several.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="--restart: expected one process"):
            run(path, tmp_path / "run", restart=True)
    assert old.is_dir()
    with pytest.raises(ValueError, match="absent"):  # only now is the model looked for
        run(path, tmp_path / "run", restart=True)
    assert not old.exists()


def test_held_out_images_before_and_after(
    photographs, tmp_path, monkeypatch, capsys, timm_model, timm_processor
) -> None:
    """Both are asked the same questions, about images that were not trained on; a second run repeats nothing."""
    for part in (timm_model, timm_processor):
        part.save_pretrained(tmp_path / "start")
    out = tmp_path / "run"
    arguments = ["--data", photographs, "--held-out", 2, "--steps", 2, "--model", tmp_path / "start", "--out", out]
    monkeypatch.setattr("sys.argv", ["pixellm", "train", *map(str, arguments)])
    files = ["held_out.jsonl", "train.jsonl", "before_after.md", "before_after.jpg", "before/score.json"]
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            cli.main()
        shown = capsys.readouterr().out
        assert "→" in shown
        assert str(out / "before_after.jpg") in shown
        changed = {name: (out / name).read_bytes() for name in files}
    images = [{json.loads(line)["image"] for line in (out / name).read_text().splitlines()} for name in files[:2]]
    assert [len(part) for part in images] == [2, 4]
    assert not images[0] & images[1]
    assert {name: (out / name).read_bytes() for name in files} == changed
    before, after = (json.loads((out / name / "score.json").read_text()) for name in ("before", "after"))
    assert before["questions"] == after["questions"] == 4
    assert before["questions_digest"] == after["questions_digest"]
    assert before["answers"]["model"] != after["answers"]["model"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["recipes/nano.yaml", "--held-out", "2"], "--held-out: expected --data"),
        (["--data", "DATA", "--held-out", "6"], "hold out 1 to 5 of the 6 images, got 6"),
    ],
)
def test_held_out_is_refused(photographs, tmp_path, monkeypatch, capsys, arguments, reason) -> None:
    arguments = [str(photographs) if argument == "DATA" else argument for argument in arguments]
    monkeypatch.setattr("sys.argv", ["pixellm", "train", *arguments, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        cli.main()
    assert reason in capsys.readouterr().err
