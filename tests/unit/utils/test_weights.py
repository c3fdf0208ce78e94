"""Loading weights."""

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

from pixellm.utils.weights import without_progress_bars


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("hub_shown", [True, False])
def test_settings_of_progress_bars_are_restored(shown, hub_shown):
    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    (enable_progress_bars if hub_shown else disable_progress_bars)()
    try:
        with without_progress_bars():
            assert not logging.is_progress_bar_enabled()
        assert (logging.is_progress_bar_enabled(), not are_progress_bars_disabled()) == (shown, hub_shown)
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
