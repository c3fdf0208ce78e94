"""Tiny models of every family, made once."""

import pytest

from pixellm.backbones.create import NewParts, extend
from pixellm.backbones.predictor import BackbonePredictor
from tests.support.tiny_vlms import tiny_vlm


@pytest.fixture(scope="session")
def predictors():
    """Predictor, and a copy of the base as it was before, with its processor, by family."""
    made = {}

    def of(family: str):
        if family not in made:
            model, processor = extend(*tiny_vlm(family), NewParts(decoder_dim=32, mask_grid=8))
            made[family] = BackbonePredictor(model, processor), *tiny_vlm(family)
        return made[family]

    return of
