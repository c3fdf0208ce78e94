"""All commands, in this process: their help, their panels, and `-` as an output file."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.table import Table
from typer.testing import CliRunner

from pixellm import cli
from pixellm.cli import common
from pixellm.cli.common import print_whole
from pixellm.utils.extras import extra_of
from tests.support import serving, tiny

ROOT = typer.main.get_command(cli.app)


def commands(command=ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Yield each command and group with its full name."""
    yield " ".join(path), command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands())


@pytest.fixture
def run():
    """Run the command line in this process; `output_file` writes to the runner's standard output."""
    yield lambda *words: CliRunner().invoke(cli.app, [*map(str, words)])
    common.reserve_stdout()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run, name):
    result = run(*name.split(), "--help")
    assert result.exit_code == 0, result.output
    assert f"Usage: root {name}".rstrip() in result.output
    assert result.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_written_alike(name):
    """A sentence for the command and for each parameter, which begins with a verb or a noun."""
    texts = [COMMANDS[name].help.split("\n")[0], *(getattr(p, "help", "") for p in COMMANDS[name].params)]
    for text in texts:
        assert re.fullmatch(r"(?!(Of|What|Whether|How|Who|Which|Where|When|With|In|By)\b).*(\S[.]|…)", text or ""), text
        assert "default: " not in text


def test_help_needs_no_model():
    code = (
        "import sys, pixellm.cli; print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["ask", "muse", "label-studio"])
def test_only_the_command_that_is_called_is_imported(name):
    called = typer.main.get_command(cli.command_line(name))
    assert set(called.commands) == {name}
    assert set(typer.main.get_command(cli.command_line("--version")).commands) == set(ROOT.commands)
    code = f"import sys; from pixellm import cli; cli.command_line({name!r}); print('pixellm.cli.init' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_every_command_is_in_a_panel(run):
    output = run("--help").output
    headings = [line.strip("╭─╮ ") for line in output.splitlines() if line.startswith("╭")]
    assert headings == ["Options", *cli.PANELS]
    assert {name for panel in cli.PANELS.values() for name in panel} == set(ROOT.commands)
    assert all(f"│ {name} " in output for name in ROOT.commands)


def test_a_missing_package_names_an_extra_that_has_it():
    """For each imported package of an extra, the extra that `main` names declares it."""
    root = Path(__file__).parents[3]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = {
        extra: {canonicalize_name(Requirement(requirement).name) for requirement in requirements}
        for extra, requirements in declared.items()
        if extra not in ("dev", "docs")
    }
    code = "".join(path.read_text() for path in (root / "src").rglob("*.py"))
    imported = set(re.findall(r"^ *(?:from|import) (\w+)", code, re.MULTILINE))
    checked = 0
    for name, owners in metadata.packages_distributions().items():
        having = [extra for extra, packages in extras.items() if packages & set(map(canonicalize_name, owners))]
        if having and name in imported:
            assert extra_of(name) in having, name
            checked += 1
    assert checked > 10


def test_a_file_is_written_where_it_should_be(tmp_path):
    common.reserve_stdout(tmp_path / "a", None)
    assert not common.out_console.stderr
    with common.output_file(tmp_path / "a") as path:
        assert path == tmp_path / "a"


def test_a_dash_is_standard_output(capfdbinary):
    with common.output_file(Path("-"), ".json") as path:
        path.write_bytes(b"\x00\xff")
        assert path.suffix == ".json"
    assert capfdbinary.readouterr().out == b"\x00\xff"
    assert not path.exists()


def test_nothing_reaches_standard_output_after_an_error(capfdbinary):
    def write() -> None:
        with common.output_file(Path("-")) as path:
            path.write_bytes(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert capfdbinary.readouterr().out == b""


def test_messages_make_room_for_a_file_on_standard_output():
    try:
        common.reserve_stdout(Path("-"), Path("b"), None)
        assert common.out_console.stderr
        with pytest.raises(ValueError, match="for one output file, got it for several"):
            common.reserve_stdout(Path("-"), Path("-"))
    finally:
        common.reserve_stdout()
    assert not common.out_console.stderr


def test_answers_of_a_batch_on_standard_output(run, tmp_path):
    model = serving.write_model(tmp_path)
    tiny.picture(60, 40).save(tmp_path / "1.png")
    row = {"image": "1.png", "question": "What?"}
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in (row, row | {"image": "2.png"})))
    result = run("batch", path, "--out", "-", "--model", model, "--max-new-tokens", 4, "--device", "cpu")
    assert result.exit_code == 1, result.output
    _, answer = map(json.loads, result.stdout.splitlines())
    assert answer["question"] == "What?"
    assert "1 answers: -" in result.stderr
    assert "1 could not be answered\n  line 2: " in result.stderr
    assert not list(tmp_path.glob("-*"))


def test_a_table_in_a_pipe_is_whole_and_its_text_is_text(capsys):
    """Kinds and categories come from files: "[/b]" must not be read as markup."""
    table = Table("kind [/b]", "x" * 300)
    print_whole(table)
    printed = capsys.readouterr().out
    assert "kind [/b]" in printed
    assert "x" * 300 in printed
