"""Names → configurations of known sizes: PixelLM's, the baselines', and small ones of all for experiments."""

from pixellm.baselines.presets import PRESETS as BASELINE_PRESETS
from pixellm.checkpoints.presets import PRESETS as PIXELLM_PRESETS
from pixellm.mini.presets import PRESETS as MINI_PRESETS

PRESETS = PIXELLM_PRESETS | BASELINE_PRESETS | MINI_PRESETS
