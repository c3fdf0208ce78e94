"""The public API: what `import pixellm` offers, and that it loads nothing before it is used."""

import subprocess
import sys
from importlib import import_module

import pytest

import pixellm
from tests.support import serving, tiny

HEAVY = ("torch", "transformers", "PIL", "numpy", "typer", "rich")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_loads_nothing_heavy():
    assert run(f"import sys, pixellm; print([name for name in {HEAVY} if name in sys.modules])") == "[]\n"


def test_everything_is_listed():
    assert set(pixellm.__all__) == {*pixellm.MODULES, "__version__"}
    assert set(pixellm.__all__) <= set(dir(pixellm))


@pytest.mark.parametrize("name", [name for name in pixellm.__all__ if name != "__version__"])
def test_names_come_from_where_they_are_defined(name):
    assert getattr(pixellm, name) is getattr(import_module(pixellm.MODULES[name]), name)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'pixellm' has no attribute 'nonsense'"):
        _ = pixellm.nonsense


def test_types_need_no_torch():
    assert (
        run("import sys; from pixellm import Answer, Target, Sample, Batch; print('torch' in sys.modules)") == "False\n"
    )


def test_one_call_is_set_image_and_ask(tmp_path):
    predictor = pixellm.load(serving.write_model(tmp_path))
    assert isinstance(predictor, pixellm.Predictor)
    answer = predictor(tiny.picture(60, 40), "What is it?", max_new_tokens=8)
    assert isinstance(answer, pixellm.Answer)
    assert answer.to_json() == predictor.ask("What is it?", max_new_tokens=8).to_json()
