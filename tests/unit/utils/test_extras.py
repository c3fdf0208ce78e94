"""A missing package: one line that names the extra, exit code 2; what needs no torch loads none."""

import subprocess
import sys

import pytest

from pixellm.utils.extras import extra_of, missing_package

HEAVY = ("torch", "transformers", "scipy", "matplotlib", "cv2", "supervision", "skimage", "timm", "pandas")


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_extras_of_packages():
    assert [extra_of(name) for name in ("torch", "torch.nn", "ray", "peft")] == ["torch", "torch", "ray", "train"]
    assert missing_package(ModuleNotFoundError("", name="pixellm.nonsense")) is None
    assert missing_package(ModuleNotFoundError("")) is None
    assert "pixellm[serve]" in str(missing_package(ModuleNotFoundError("", name="fastapi.responses")))
    assert "install 'cvat-sdk[masks]'" in str(missing_package(ModuleNotFoundError("", name="cvat_sdk.models")))


@pytest.mark.parametrize(
    "modules",
    [
        "pixellm.types, pixellm.prompts, pixellm.cli, pixellm.cli.outputs",
        "pixellm.imaging.images, pixellm.imaging.geometry, pixellm.imaging.masks, pixellm.imaging.postprocess",
        "pixellm.imaging.overlay, pixellm.imaging.contact_sheet, pixellm.imaging.examples",
        "pixellm.hub.models, pixellm.hub.systems, pixellm.mini.parts, pixellm.inference.answer_builder",
    ],
)
def test_light_modules_load_nothing_heavy(modules):
    code = f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(code).stdout == "[]\n"


def test_a_command_without_its_extra():
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['pixellm', 'models', 'plan', 'pixellm-7b']\n"
        "from pixellm.cli import main; main()"
    )
    result = run(code)
    assert result.returncode == 2
    assert (
        result.stderr.strip() == "Error: expected the package torch, got none. Install it: pip install 'pixellm[torch]'"
    )
