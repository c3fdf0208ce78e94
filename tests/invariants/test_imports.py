"""Arrows go down only (ARCHITECTURE): the model knows nothing of data, training, evaluation or the command line."""

import ast
from pathlib import Path

import pytest

import pixellm

PACKAGE = Path(pixellm.__file__).parent
ABOVE_MODEL = ("data", "train", "eval", "baselines", "muse", "serve", "cost", "cli", "predictor")


def imported(tree: ast.AST, module: str) -> set[str]:
    """Absolute names of what a syntax tree imports; `module` is the dotted name of its file."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return names


def parse(path: Path) -> tuple[ast.Module, str]:
    dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return ast.parse(path.read_text(encoding="utf-8")), dotted


@pytest.mark.parametrize("path", sorted((PACKAGE / "model").rglob("*.py")), ids=lambda p: p.name)
def test_model_does_not_look_up(path):
    names = imported(*parse(path))
    forbidden = {f"pixellm.{part}" for part in ABOVE_MODEL}
    assert not {n for n in names if any(n == f or n.startswith(f"{f}.") for f in forbidden)}


def test_types_import_what_is_below_them():
    names = {name for name in imported(*parse(PACKAGE / "types.py")) if name.split(".")[0] == "pixellm"}
    assert all(name.startswith(("pixellm.imaging", "pixellm.utils")) for name in names)


def test_data_does_not_import_training_or_the_model():
    """Data and model meet in types.py."""
    for path in sorted((PACKAGE / "data").rglob("*.py")):
        names = imported(*parse(path))
        assert not {n for n in names if n.startswith(("pixellm.model", "pixellm.train", "pixellm.predictor"))}, (
            path.name
        )


def test_the_reader_of_imports_sees_all_forms():
    source = "import a.b\nfrom pixellm import data\nfrom ..train import x\nfrom . import y\ndef f():\n    import c"
    names = imported(ast.parse(source), "pixellm.model.z")
    assert {"a.b", "pixellm.data", "pixellm.train", "pixellm.train.x", "pixellm.model.y", "c"} <= names
