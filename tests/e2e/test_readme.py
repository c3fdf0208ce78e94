"""README keeps its word: its commands and Python blocks run, and what the documents point to exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pixellm.hub import models as hub
from pixellm.imaging.examples import load_example
from pixellm.mini.parts import PRETRAINED

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PIXELLM = Path(sys.executable).with_name("pixellm")


PAGES = sorted(
    [ROOT / "docs/index.md", ROOT / "docs/notebook.md", ROOT / "docs/export.md", *(ROOT / "docs/recipes").glob("*.md")]
)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """Arguments of each command of README's bash blocks that starts with `program`."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in split if words[:1] == [program]]


def runs_anywhere(arguments: list[str]) -> bool:
    """Neither data nor checkpoints of the reader's are needed, and nothing that is here gets deleted."""
    if arguments[0] == "ask":
        return "--model" not in arguments
    return arguments[0] == "examples" or arguments[:2] in (["models", "list"], ["models", "pull"], ["models", "where"])


COMMANDS = commands("pixellm")
RUN = [shlex.join(arguments) for arguments in COMMANDS if runs_anywhere(arguments)]


@pytest.fixture(scope="session")
def mini() -> Path:
    """The embedded model, fetched if this is its first use."""
    if not PRETRAINED.is_dir():
        pytest.skip(f"the weights of {hub.MINI} are not in {PRETRAINED.relative_to(ROOT)} yet")
    return hub.resolve(hub.MINI)


@pytest.fixture
def work(tmp_path) -> Path:
    """A directory with the reader's photograph."""
    load_example("cat").save(tmp_path / "photo.jpg")
    return tmp_path


@pytest.mark.usefixtures("mini")
@pytest.mark.parametrize("command", RUN)
def test_commands_run(command, work):
    result = subprocess.run([PIXELLM, *shlex.split(command)], cwd=work, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.usefixtures("mini")
@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block, work):
    result = subprocess.run([sys.executable, "-c", block], cwd=work, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.usefixtures("mini")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_run(page, work):
    found = blocks("python", page.read_text(encoding="utf-8"))
    assert found
    for block in found:
        result = subprocess.run([sys.executable, "-c", block], cwd=work, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("arguments", COMMANDS, ids=shlex.join)
def test_every_option_exists(arguments):
    """Of all commands: those that are not run here, too."""
    depth = 2 if arguments[0] in ("models", "data") else 1
    wide = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    command = [PIXELLM, *arguments[:depth], "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=wide, timeout=60)
    assert result.returncode == 0, result.stderr
    offered = set(re.findall(r"--[a-z][a-z-]*", result.stdout))
    assert {word for word in arguments if word.startswith("--")} <= offered


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    documents = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    named = {arguments[0] for arguments in commands("make")} | set(re.findall(r"`make ([a-z]+)`", documents))
    assert {"setup", "demo", "test", "check"} <= named <= targets


def test_file_map_exists():
    section = README.split("## Where things are")[1].split("\n## ")[0]
    paths = [path for row in re.findall(r"^\|.*$", section, re.MULTILINE) for path in re.findall(r"`([\w./-]+)`", row)]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    targets = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    if not PRETRAINED.is_dir():  # the picture of its answer comes with the model
        targets = [link for link in targets if not link.startswith("docs/images/")]
    assert [link for link in targets if not (document.parent / link).exists()] == []


def test_comments_point_to_rows_of_the_parity_table():
    anchors = set(re.findall(r'<a id="([\w-]+)">', (ROOT / "docs/parity.md").read_text(encoding="utf-8")))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"parity\.md#([\w-]+)", code))
    assert named
    assert named <= anchors


def test_architecture_names_files_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w/]+\.py|[a-z]+/)`", text)
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / "src/pixellm" / path).exists()] == []
