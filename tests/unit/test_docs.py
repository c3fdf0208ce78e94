"""The documents are true: files, modules, commands, options, links and make targets that they name exist."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import typer

from pixellm import cli
from pixellm.mini.parts import PRETRAINED
from pixellm.model import PixelLMConfig
from pixellm.model.losses import LossWeights
from pixellm.utils import limits
from tests.invariants.test_imports import ORDER

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HISTORY = ("LOG.md", "CHANGELOG.md")  # may name what is gone
CURRENT = [path for path in DOCUMENTS if path.name not in HISTORY]
RELEASED_CODE = {  # of other repositories
    *("train_ds.py", "utils/matcher.py", "utils/utils.py"),
    *("pbench.py", "r2s_eval.py", "refcoco_eval.py", "sa2va_eval_gcg.py", "vrt_eval_single.py"),
}
OPTION = re.compile(r"^--[a-z][a-z0-9-]*$")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """Arguments of each `pixellm …` in code blocks and in backticks, without comments, pipes and redirections."""
    blocks = "".join(re.findall(r"^```(?:bash)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    lines = [*blocks.replace("\\\n", " ").splitlines(), *re.findall(r"`(pixellm [^`]+)`", text)]
    called = []
    for line in lines:
        program = re.match(r".*?(?:^|-m )pixellm ((?! ).*)", line)
        if program and "`" not in program[1]:
            words = shlex.split(re.split(r" [|#>] ", program[1])[0].replace("…", " … "), comments=True)
            called.append(words)
    return called


def options(words: list[str]) -> tuple[str, set[str]]:
    """The command that `words` call, and the options that it has."""
    command, path = typer.main.get_command(cli.app), []
    for word in words:
        if not hasattr(command, "commands"):
            break
        if word.startswith("-") or word == "…":
            break
        assert word in command.commands, f"no such command: pixellm {' '.join([*path, word])}"
        command, path = command.commands[word], [*path, word]
    return " ".join(path), {
        name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("document", CURRENT, ids=lambda path: path.name)
def test_commands_and_their_options_exist(document):
    for words in commands(read(document)):
        command, offered = options(words)
        named = {word.split("=")[0] for word in words if OPTION.match(word.split("=")[0])}
        assert named <= offered | {"--help", "--version"}, f"pixellm {command}: {named - offered}"


def test_commands_are_read_from_blocks_and_backticks():
    text = "```bash\npixellm ask x 'a b' --out y | jq .\ntorchrun -m pixellm train r.yaml  # c\n```\nand `pixellm web`"
    assert commands(text) == [["ask", "x", "a b", "--out", "y"], ["train", "r.yaml"], ["web"]]


@pytest.mark.parametrize("document", CURRENT, ids=lambda path: path.name)
def test_files_exist(document):
    places = (ROOT, ROOT / "src/pixellm", document.parent)
    named = set(re.findall(r"`([\w./-]+\.(?:py|yaml|sh)|[\w-]+(?:/[\w-]+)*/)`", read(document))) - RELEASED_CODE
    own = {name for name in named if name.endswith(".py") or name.split("/")[0] in ("src", "tests", "docs", "recipes")}
    assert sorted(name for name in own if not any((place / name).exists() for place in places)) == []


@pytest.mark.parametrize("document", CURRENT, ids=lambda path: path.name)
def test_modules_and_names_exist(document):
    for name in sorted(set(re.findall(r"\bpixellm(?:\.[A-Za-z_]\w*)+", read(document)))):
        module, rest = import_module("pixellm"), name.split(".")[1:]
        value = module
        for index, part in enumerate(rest, 2):
            if hasattr(value, part):
                value = getattr(value, part)
                continue
            try:
                value = import_module(".".join(name.split(".")[:index]))
            except ModuleNotFoundError as error:  # the package of a tool, which need not be installed
                if (error.name or "").startswith("pixellm"):
                    raise
                break


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    text = "".join(map(read, CURRENT))
    named = set(re.findall(r"`make ([a-z-]+)`", text)) | set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "setup", "test", "check"} <= named <= targets


def test_file_map_is_complete():
    """Every path in it exists, and every package of `src/pixellm` is in it."""
    section = README.split("## File map")[1].split("\n## ")[0]
    paths = {path for row in re.findall(r"^\|.*$", section, re.MULTILINE) for path in re.findall(r"`([\w./-]+)`", row)}
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []
    parts = [path for path in (ROOT / "src/pixellm").iterdir() if not path.name.startswith("_")]
    packages = {f"src/pixellm/{path.name}" + ("/" if path.is_dir() else "") for path in parts}
    assert packages <= paths


def test_readme_is_short():
    assert len(README.splitlines()) <= 160


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    targets = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", read(document)) if "://" not in link]
    if not PRETRAINED.is_dir():  # the image of its answer comes with the model
        targets = [link for link in targets if not link.startswith("docs/images/")]
    assert [link for link in targets if not (document.parent / link).exists()] == []


def test_comments_point_to_rows_of_the_parity_table():
    anchors = set(re.findall(r'<a id="([\w-]+)">', read(ROOT / "docs/parity.md")))
    code = "".join(map(read, (ROOT / "src").rglob("*.py")))
    named = set(re.findall(r"parity\.md#([\w-]+)", code))
    assert named
    assert named <= anchors


def test_switches_of_the_parity_table_are_fields():
    table = read(ROOT / "docs/parity.md").split("## Switches of `PixelLMConfig`")[1].split("\n## ")[0]
    cells = [row.split("|")[-2] for row in table.splitlines() if "<a id=" in row]
    names = [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]
    config = PixelLMConfig()
    parts = {"vision_config": config.vision_config, "losses": LossWeights()}
    assert len(names) > 5
    for name in names:
        *part, field = name.split(".")
        assert hasattr(parts[part[0]] if part else config, field), name


def test_limits_are_listed():
    """One row of docs/limits.md for each constant of the module: name, value, meaning."""
    lines = re.findall(r"^([A-Z_]+) = .+?  # (.+)$", read(Path(limits.__file__)), re.MULTILINE)
    values = {name: f"{value:,}".removesuffix(".0") for name, value in vars(limits).items() if name.isupper()}
    assert {name for name, _ in lines} == values.keys() - {"MIB"}
    rows = [f"| `{name}` | {values[name]} | {meaning} |" for name, meaning in lines]
    page = read(ROOT / "docs/limits.md")
    assert [row for row in rows if row not in page] == [], "docs/limits.md: put these rows in"
    assert page.count("| `") == len(rows)


def test_promises_name_their_tests():
    """docs/security.md: each promise with a test that keeps it."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", read(ROOT / "docs/security.md"))
    assert len(named) > 20
    for file, test in named:
        assert re.search(rf"def {test or 'test_'}", read(ROOT / file)), f"{file}::{test}"


def test_architecture_has_the_order_of_packages():
    order = re.search(r"```\n(utils <.*?)```", read(ROOT / "ARCHITECTURE.md"), re.DOTALL)
    assert tuple(order[1].replace("<", " ").split()) == ORDER[:-1]  # without __main__


def test_architecture_names_files():
    assert len(re.findall(r"`[\w/]+\.py`", read(ROOT / "ARCHITECTURE.md"))) > 20
