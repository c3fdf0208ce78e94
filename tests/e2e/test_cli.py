"""The command line as people use it: real processes, what they print, write, and answer to mistakes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pixellm import cli
from pixellm.imaging import masks
from pixellm.imaging.examples import EXAMPLES
from tests.support import tiny, trees
from tests.support.hub import LoopbackHub, point_at, published, running

PIXELLM = Path(sys.executable).with_name("pixellm")


@pytest.fixture
def work(tmp_path) -> tuple[Path, dict[str, str]]:
    """An empty directory, and an environment with an empty cache and no network."""
    folder = tmp_path / "work"
    folder.mkdir()
    own = {"PIXELLM_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    return folder, {"NO_COLOR": "1", "COLUMNS": "200", "PIXELLM_DEBUG": "", **own}


@pytest.fixture
def run(work):
    """Run `pixellm ARGUMENTS` in that directory."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PIXELLM, *map(str, arguments)],
            cwd=work[0],
            env=os.environ | work[1],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def call(work, monkeypatch, capsys):
    """Run it in this process, which has imported what it needs already."""
    monkeypatch.chdir(work[0])
    for name, value in work[1].items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["pixellm", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, int(stop.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def parrot(tmp_path_factory) -> Path:
    """A model directory that answers everything with " dog" and a mask: its tokens only look at themselves."""
    processor = tiny.tiny_processor(image_size=56, num_image_tokens=4)
    model = tiny.build(tiny.clip_config())
    group, word = processor.codebook_ids, processor.tokenizer.encode(" dog")[-1]
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        for layer in model.language_model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.language_model.model.norm.weight.fill_(1)
        embedding.zero_()
        head.zero_()
        embedding[:, 0] = head[word, 0] = 1
        for channel, (token, following) in enumerate([(word, group[0]), (group[-1], processor.eos_ids[0])], start=1):
            embedding[token] = 0
            embedding[token, channel] = head[following, channel] = 1
    directory = tmp_path_factory.mktemp("models") / "parrot"
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def refused(result: subprocess.CompletedProcess[str], pattern: str, code: int = 2) -> bool:
    """One clear line on stderr, no traceback."""
    assert result.returncode == code, result.stderr
    assert re.search(pattern, result.stderr), result.stderr
    return "Traceback" not in result.stderr and result.stdout == ""


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import atexit, sys; sys.argv = ['pixellm', '--help']\n"
        "atexit.register(lambda: print([name for name in ('torch', 'transformers') if name in sys.modules]))\n"
        "from pixellm.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "[]"
    for command in ("ask", "examples", "models", "convert", "train", "eval"):
        assert re.search(rf"^\W+{command} ", result.stdout, re.MULTILINE)


def test_version(run):
    assert re.fullmatch(r"pixellm \d+\.\d+\.\d+\n", run("--version").stdout)


def test_examples_are_listed(run):
    listed = run("examples").stdout
    assert all(f"example:{name} " in listed for name in EXAMPLES)


@pytest.mark.parametrize(
    ("image", "pattern"),
    [
        ("nothing.jpg", r"^Error: expected an image file, got 'nothing\.jpg', which does not exist"),
        (".", r"^Error: expected an image file, got the directory"),
        ("https://example.org/cat.jpg", r"^Error: expected an image file, got the URL"),
        ("data:image/png;base64," + "A" * 400, r"^Error: expected an image file, got the URL"),
        ("example:dog", r"^Error: expected the name of an example image, got 'dog'.*astronaut"),
    ],
)
def test_wrong_images_are_one_line(call, image, pattern):
    assert refused(call("ask", image, "What is it?"), pattern)


def test_files_that_are_no_image_are_one_line(call, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    assert refused(call("ask", tmp_path / "empty.jpg", "What is it?"), r"^Error: expected an image, .* zero bytes")
    assert refused(call("ask", tmp_path / "text.jpg", "What is it?"), r"^Error: expected an image, .* which is not one")


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        ("nonsense", r"^Error: expected the name of a model, got 'nonsense'\. Known: pixellm-mini"),
        ("./nothing", r"^Error: expected a model directory, got \./nothing, which does not exist"),
        ("owner/model", r"^Error: expected the model owner/model on the Hugging Face Hub, got offline mode"),
    ],
)
def test_unknown_models_are_one_line(call, model, pattern):
    assert refused(call("ask", "example:cat", "What is it?", "--model", model), pattern)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--out", "nowhere/answer.png"], r"^Error: expected a directory to write answer\.png to, got nowhere"),
        (["--out", "answer.gif"], r"^Error: --out: expected a name that ends in \.png, \.jpg, \.jpeg, got answer\.gif"),
        (["--out", "answer"], r"^Error: --out: expected a name that ends in"),
        (["--json", "."], r"^Error: expected a file to write to, got \."),
        (["--json", "/dev/null"], r"^Error: expected a file to write to, got /dev/null"),
        (["--json", "cat-answer.png"], r"^Error: --json: expected another file than the overlay"),
    ],
)
def test_wrong_outputs_are_refused_before_the_model_is_looked_for(call, options, pattern):
    assert refused(call("ask", "example:cat", "What is it?", "--model", "nonsense", *options), pattern)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a directory that nobody can write to")
def test_unwritable_directory_is_one_line(call):
    assert refused(
        call("ask", "example:cat", "What?", "--out", "/proc/a.png"), r"^Error: expected a directory that can"
    )


def test_the_image_is_never_overwritten(call, tmp_path):
    image = tmp_path / "image.png"
    tiny.picture(40, 30).save(image)
    before = image.read_bytes()
    (tmp_path / "link.png").symlink_to(image)
    for name in ("image.png", "link.png"):
        result = call("ask", image, "What is it?", "--out", tmp_path / name)
        assert refused(result, r"^Error: expected another file than the input image")
    assert image.read_bytes() == before


def test_empty_question_is_one_line(call):
    assert refused(call("ask", "example:cat", " "), r"^Error: expected a question, got an empty text")


def test_ask_prints_the_answer_and_writes_overlay_and_json(run, parrot, tmp_path):
    overlay, path = tmp_path / "answer.jpg", tmp_path / "answer.json"
    result = run("ask", "example:cat", "Where?", "--model", parrot, "--out", overlay, "--json", path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].strip() == "dog"
    assert re.fullmatch(r"\s+dog +[\d,]+ px +[\d.]+% +score 0\.\d\d +box \d+×\d+ at \d+, \d+", lines[1])
    assert lines[2:] == [f"overlay: {overlay}", f"answers: {path}"]
    with Image.open(overlay) as drawn:
        assert (drawn.format, drawn.size) == ("JPEG", (451, 300))
    answer = json.loads(path.read_text())
    target = answer["targets"][0]
    assert answer["text"][slice(*target["span"])] == target["phrase"] == "dog"
    assert masks.decode(target["segmentation"], 300, 451).sum() == target["area"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["answer.jpg", "answer.json"]


def test_the_library_prints_nothing(parrot):
    code = (
        "import sys; import pixellm; predictor = pixellm.load(sys.argv[1])\n"
        "predictor.set_image('example:cat'); print(predictor.ask('Where?').text)"
    )
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("TRANSFORMERS_", "TORCH_"))}
    result = subprocess.run(
        [sys.executable, "-c", code, parrot], env=plain, capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "dog", "")


def test_a_dash_is_standard_output(run, parrot, tmp_path):
    """The file alone is there; what the command says goes to standard error."""
    result = run("ask", "example:cat", "Where?", "--model", parrot, "--out", "answer.png", "--json", "-")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["targets"][0]["phrase"] == "dog"
    assert "answers: -" in result.stderr
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["answer.png"]
    arguments = ("ask", "example:cat", "Where?", "--out", "-")
    assert refused(run(*arguments, "--json", "-"), r"^Error: expected `-`, standard output, for one output file")
    assert refused(run(*arguments, "And here?"), r"^Error: --out -: expected one question, got 2")


def test_ask_leaves_out_masks_below_a_score(run, call, parrot, tmp_path):
    result = run("ask", "example:cat", "Where?", "--model", parrot, "--json", "answer.json", "--min-score", "1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].strip() == "dog"
    assert "no mask" in result.stdout
    answer = json.loads((tmp_path / "work" / "answer.json").read_text())
    assert (answer["text"].strip(), answer["targets"]) == ("dog", [])
    assert call("ask", "example:cat", "Where?", "--min-score", "1.5").returncode == 2


def test_ask_several_questions(run, parrot, tmp_path):
    result = run("ask", "example:cat", "Where?", "And here?", "--model", parrot, "--json", "answers.json")
    assert result.returncode == 0, result.stderr
    work = tmp_path / "work"
    assert sorted(path.name for path in work.iterdir()) == ["answers.json", "cat-answer-1.png", "cat-answer-2.png"]
    assert [answer["question"] for answer in json.loads((work / "answers.json").read_text())] == ["Where?", "And here?"]
    assert "Where?" in result.stdout
    assert "And here?" in result.stdout


def test_models_of_an_empty_cache(run):
    listed = run("models", "list")
    assert listed.returncode == 0
    for name, licence in (("pixellm-mini", "Apache-2.0"), ("pixellm-7b", "Apache-2.0"), ("lisa-13b", "none stated")):
        row = rf"^{name} +[\d.]+ [BM] .* GB +(bfloat16|int8|int4|no) +{licence} +0 MB +not ready; .*models pull {name}$"
        assert re.search(row, listed.stdout, re.MULTILINE)
    assert refused(run("models", "where", "pixellm-mini"), r"^Error: expected a model on this computer")
    assert refused(run("models", "remove", "pixellm-mini"), r"^Error: expected the name of a cached model")


def test_cached_models_are_listed_and_removed(run, parrot, tmp_path):
    kept = tmp_path / "cache" / "models" / "older"
    kept.mkdir(parents=True)
    (kept / "config.json").write_bytes((parrot / "config.json").read_bytes())
    assert re.search(rf"^older +0 MB +{re.escape(str(kept))}$", run("models", "list").stdout, re.MULTILINE)
    assert run("models", "where", "older").stdout == f"{kept}\n"
    assert run("models", "remove", "older").returncode == 1  # nobody there to say yes
    assert kept.is_dir()
    assert run("models", "remove", "older", "--yes").returncode == 0
    assert not kept.exists()


def test_a_released_model_is_pulled_and_asked_by_name(call, shared, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with running(published(LoopbackHub(), shared)) as hub:
        point_at(hub, monkeypatch)
        pulled = call("models", "pull", "pixellm-7b")
        assert pulled.returncode == 0, pulled.stderr
        assert pulled.stdout == f"pixellm-7b is in {tmp_path / 'cache' / 'models' / 'pixellm-7b'}\n"
        assert "downloading maverickrzw/PixelLM-7B (16.9 MB of 16.9 MB to go)" in pulled.stderr
    answered = call("ask", "example:cat", "Where?", "--model", "pixellm-7b", "--max-new-tokens", "2")
    assert answered.returncode == 0, answered.stderr
    assert call("models", "where", "maverickrzw/PixelLM-7B").stdout.endswith("pixellm-7b\n")


def test_convert_reports_and_checks(run, shared, tmp_path):
    reference, out = shared / "reference", tmp_path / "converted"
    arguments = ("convert", reference / "hf_model", out, "--vision", reference / "clip-tiny")
    result = run(*arguments, "--check")
    assert result.returncode == 0, result.stderr
    assert "missing 0 keys" in result.stdout
    assert "check: complete" in result.stdout
    assert refused(run(*arguments), r"(?m)^Error: expected a new or empty directory")
    again = run(*arguments, "--check")
    assert again.returncode == 0
    assert "was not converted again" in again.stdout


def called(monkeypatch, capsys, error: BaseException, **variables: str) -> tuple[int, str]:
    """Exit code and stderr of `pixellm examples` when `error` happens inside."""

    def fail():
        raise error

    monkeypatch.setattr("pixellm.imaging.examples.EXAMPLES", type("Examples", (), {"items": staticmethod(fail)}))
    monkeypatch.setattr(sys, "argv", ["pixellm", "examples"])
    monkeypatch.setenv("PIXELLM_DEBUG", variables.get("PIXELLM_DEBUG", ""))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, capsys.readouterr().err


def test_interrupt_is_one_line(monkeypatch, capsys):
    assert called(monkeypatch, capsys, KeyboardInterrupt()) == (130, "interrupted\n")


def test_missing_package_names_the_extra(monkeypatch, capsys):
    code, stderr = called(monkeypatch, capsys, ModuleNotFoundError("No module named 'peft'", name="peft"))
    assert code == 2
    assert "pip install 'pixellm[train]'" in stderr
    assert stderr.count("\n") == 1


def test_surprises_point_to_the_traceback(monkeypatch, capsys):
    code, stderr = called(monkeypatch, capsys, RuntimeError("out of luck"))
    assert code == 1
    assert stderr.startswith("RuntimeError: out of luck\n")
    with pytest.raises(RuntimeError, match="out of luck"):
        called(monkeypatch, capsys, RuntimeError("out of luck"), PIXELLM_DEBUG="1")


def write_jsonl(tmp_path, *rows: dict) -> Path:
    path = tmp_path / "my.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


ROW = {"image": "1.png", "question": "What?", "answer": "The box {seg}.", "masks": [[[5, 5, 15, 5, 15, 15]]]}


def test_data_layout(call, tmp_path):
    (tmp_path / "data/ade20k/images/training").mkdir(parents=True)
    printed = call("data", "layout", "--root", tmp_path / "data").stdout
    assert re.search(r"refs\(umd\)\.p +MISSING · refcocog", printed)
    assert not re.search(r"^[│ ]*[a-z0-9+_]+, ", printed, re.MULTILINE)  # no line goes on in the next one
    assert max(map(len, printed.splitlines())) > 80
    assert re.search(r"ade20k +1 parts missing", printed)


def test_data_check(call, tmp_path):
    trees.photograph(tmp_path / "1.png")
    path = write_jsonl(tmp_path, ROW, ROW | {"answer": "Nothing.", "masks": []})
    result = call("data", "check", path, "--out", tmp_path / "samples.jpg")
    assert result.returncode == 0, result.stderr
    assert re.search(r"questions +2\n.*0: 1 · 1: 1\n.*masks +1 .*\n.*bad records +0", result.stdout)
    assert Image.open(tmp_path / "samples.jpg").width > 400


def test_data_check_names_what_is_bad(call, tmp_path):
    """Bad lines, images and masks, each with its place; the rest is counted, and the exit status tells."""
    trees.photograph(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    outside = ROW | {"masks": [{"size": [5, 5], "counts": "0a0"}], "question": "Where?"}
    empty = ROW | {"masks": [[[-9, -9, -5, -9, -5, -5]]]}
    path = write_jsonl(tmp_path, ROW, ROW | {"masks": []}, ROW | {"image": "2.png"}, outside, empty)
    result = call("data", "check", path)
    assert result.returncode == 1
    assert "line 2: the answer has 1 {seg} but 0 masks" in result.stdout
    assert "my.jsonl line 3, image: expected an image" in result.stdout
    assert "my.jsonl line 4, masks[0]: expected a mask of 30×40 pixels, got 5×5" in result.stdout
    assert "my.jsonl line 5, masks[0]: expected a mask with a pixel in the image, got an empty one" in result.stdout
    assert re.search(r"bad records +4", result.stdout)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "check", "nonsense"], "expected a dataset, got 'nonsense'"),
        (["data", "check", "absent.jsonl"], "absent.jsonl, which can't be read"),
        (["data", "check", "muse"], "pixellm data layout"),
        (["data", "check", "my.jsonl", "--out", "x"], "expected a .jpg or .png"),
        (["train"], "expected a recipe or --data"),
        (["train", "--data", "my.jsonl", "--seed", "1"], "--seed: expected a recipe with it"),
        (["train", "--data", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_mistakes_with_data(call, arguments, message):
    result = call(*arguments)
    assert result.returncode == 2
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_fine_tuning_in_one_line(run, parrot, tmp_path):
    """What comes out answers from its directory, and a second run trains nothing."""
    trees.photograph(tmp_path / "1.png")
    arguments = ("train", "--data", write_jsonl(tmp_path, ROW), "--model", parrot, "--out", "tuned", "--steps", "2")
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert re.search(r"pixel_decoder +[\d,]+ +[\d,]+", result.stderr)
    asked = run("ask", "example:cat", "What?", "--model", "tuned/model", "--max-new-tokens", "8")
    assert asked.returncode == 0, asked.stderr
    assert "not trained again" in run(*arguments).stderr


def test_attention_draws_maps(run, parrot, tmp_path):
    done = run("attention", "example:cat", "Where is the dog?", "--model", parrot, "--out", tmp_path / "maps.png")
    assert done.returncode == 0, done.stderr
    assert "dog" in done.stdout
    with Image.open(tmp_path / "maps.png") as sheet:
        assert sheet.width > 500
    assert refused(run("attention", "example:cat", "?", "--out", "maps.txt"), "--out: expected a .png, .jpg or .pdf")


def test_compare_runs(call, tmp_path):
    for seed, giou in enumerate((0.2, 0.3)):
        folder = tmp_path / f"runs/{seed}"
        folder.mkdir(parents=True)
        row = {"recipe": {"name": "mine", "seed": seed, "validation": {}}, "metrics": {"giou": giou}}
        (folder / "run.json").write_text(json.dumps(row))
    done = call("compare", tmp_path / "runs", "--out", tmp_path / "table.md")
    assert done.returncode == 0, done.stderr
    assert "| mine | 2 | 25.0 ± 7.1 |" in done.stdout
    assert "25.0 ± 7.1" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "table.png").is_file()
    (tmp_path / "empty").mkdir()
    assert refused(call("compare", tmp_path / "empty"), "expected finished runs")
    assert call("compare", tmp_path / "nowhere").returncode == 2
    assert refused(call("compare", tmp_path / "runs", "--out", "table.png"), "--out: expected a .md, got table.png")
