"""Fixtures: the reference data beside the project, tiny random models (fp32, seeded), and their processors."""

import signal
from pathlib import Path

import hypothesis
import pytest

from pixellm.model import PixelLMForConditionalGeneration, PixelLMProcessor
from pixellm.predictor import Predictor
from tests.support import tiny

# A busy machine is not a failure.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

# A shell starts background jobs with Ctrl-C ignored, and so would be the commands that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Directory of specification and reference tensors; not part of the repository."""
    path = Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"{path} with the reference tensors of the released model is not here")
    return path


@pytest.fixture(scope="session")
def converted(shared, tmp_path_factory) -> Path:
    """The reference checkpoint, brought to our format by the production converter. Only to be read."""
    from pixellm.checkpoints.convert import convert

    out = tmp_path_factory.mktemp("released") / "ours"
    convert(shared / "reference" / "hf_model", out, shared / "reference" / "clip-tiny")
    return out


@pytest.fixture(scope="session")
def clip_processor() -> PixelLMProcessor:
    return tiny.tiny_processor(image_size=56, num_image_tokens=4)


@pytest.fixture(scope="session")
def timm_processor() -> PixelLMProcessor:
    return tiny.tiny_processor(image_size=64, num_image_tokens=6)


@pytest.fixture(scope="session")
def clip_model() -> PixelLMForConditionalGeneration:
    """2 scales of one size (a ViT), 3 tokens each. Shared: change it only with monkeypatch."""
    return tiny.build(tiny.clip_config())


@pytest.fixture(scope="session")
def timm_model() -> PixelLMForConditionalGeneration:
    """3 scales of a pyramid, 2 tokens each, dense classifier, tied word embeddings."""
    return tiny.build(tiny.timm_config())


@pytest.fixture(scope="session")
def detector_model() -> PixelLMForConditionalGeneration:
    """`timm_model` with a detector of three of its categories."""
    return tiny.build(tiny.detector_config())


@pytest.fixture(params=["clip", "timm"])
def tiny_pair(request) -> tuple[PixelLMForConditionalGeneration, PixelLMProcessor]:
    """Each tiny model with its processor."""
    return request.getfixturevalue(f"{request.param}_model"), request.getfixturevalue(f"{request.param}_processor")


@pytest.fixture
def predictor(clip_model, clip_processor) -> Predictor:
    return Predictor(clip_model, clip_processor)
