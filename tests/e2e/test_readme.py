"""The commands and Python blocks of README run, and those of the pages that need nothing else."""

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
PIXELLM = Path(sys.executable).with_name("pixellm")
PAGES = sorted(
    [ROOT / "docs/index.md", ROOT / "docs/notebook.md", ROOT / "docs/export.md", *(ROOT / "docs/recipes").glob("*.md")]
)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """Return the arguments of each command in README's bash blocks that starts with `program`."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in split if words[:1] == [program]]


def runs_anywhere(arguments: list[str]) -> bool:
    """Return True for commands that need no data or checkpoints of the reader, and delete nothing."""
    if arguments[0] == "ask":
        return "--model" not in arguments
    return arguments[0] == "examples" or arguments[:2] in (["models", "list"], ["models", "pull"], ["models", "where"])


RUN = [shlex.join(arguments) for arguments in commands("pixellm") if runs_anywhere(arguments)]


@pytest.fixture(scope="session")
def mini() -> Path:
    """Return the directory of the embedded model, fetched at its first use."""
    if not PRETRAINED.is_dir():
        pytest.skip(f"the weights of {hub.MINI} are not in {PRETRAINED.relative_to(ROOT)} yet")
    return hub.resolve(hub.MINI)


@pytest.fixture
def work(tmp_path) -> Path:
    """Return a directory with the reader's image."""
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
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow) if page.stem in ("index", "notebook") else page for page in PAGES],
    ids=lambda page: page.stem,
)
def test_pages_run(page, work):
    listed = blocks("python", page.read_text(encoding="utf-8"))
    assert listed
    for block in listed:
        result = subprocess.run([sys.executable, "-c", block], cwd=work, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
