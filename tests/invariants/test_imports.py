"""The tree: imports go down only, no circles, and no two classes share a name."""

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pixellm

PACKAGE = Path(pixellm.__file__).parent
# Every package and top-level module, the lowest first; each may import what stands before it (ARCHITECTURE.md).
ORDER = (
    *("utils", "imaging", "types", "prompts", "sampling", "data", "model", "inference", "checkpoints", "predictor"),
    *("eval", "train", "backbones", "baselines", "mini", "runtime", "hub", "cost", "graphs", "segmenter", "loading"),
    *("training", "batch", "muse", "export", "serve", "integrations", "cli", "__main__"),
)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.AST, module: str) -> set[str]:
    """Return the modules of the package that a syntax tree imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            members = {f"{source}.{alias.name}" for alias in node.names}
            names |= {name for name in members if name in MODULES} or {source}
    return {name for name in names if name.split(".")[0] == "pixellm"}


ARROWS = {
    module: imported(ast.parse(path.read_text(encoding="utf-8")), module) - {module}
    for module, path in MODULES.items()
    if module != "pixellm"  # its names are imported lazily from anywhere
}


def rank(module: str) -> int:
    return ORDER.index(module.split(".")[1])


def test_every_package_has_a_rank():
    assert {module.split(".")[1] for module in MODULES if "." in module} == set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_down(package):
    upward = [
        f"{module} → {target}"
        for module, targets in ARROWS.items()
        if module.split(".")[1] == package
        for target in targets
        if target != "pixellm" and rank(target) > rank(module)
    ]
    assert not upward


def test_no_circle_of_files():
    graph = {module: {target for target in targets if target in ARROWS} for module, targets in ARROWS.items()}
    # A package's `__init__` runs before any of its modules; what it imports of them is no circle of their own.
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            graph.pop(module, None)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' → '.join(error.args[1])}")


def test_class_names_are_unique():
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_only_masks_reaches_pycocotools():
    """Its C code trusts sizes and runs; `imaging/masks.py` checks both."""
    assert [
        m
        for m, path in MODULES.items()
        if "pycocotools" in re.findall(r"^ *(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.M)
    ] == ["pixellm.imaging.masks"]


def test_reader_of_imports_sees_all_forms():
    source = (
        "import pixellm.masks\nfrom pixellm import data\nfrom ..train import run\n"
        "def f():\n    from pixellm.imaging import masks\n    import os"
    )
    names = imported(ast.parse(source), "pixellm.model.z")
    assert names >= {"pixellm.masks", "pixellm.data", "pixellm.train.run", "pixellm.imaging.masks"}
    assert "os" not in names
