"""PixelLM: answer a question about an image with text and one mask for each object it names (arXiv 2312.02228).

The names below are imported when they are first used: `import pixellm` loads neither torch nor transformers. Where
torch is not installed, `load` is `pixellm.loading.load_graphs`.
"""

import logging
from importlib import import_module
from importlib.util import find_spec

TYPE_CHECKING = False  # as typing's, whose import takes longer than all of this
if TYPE_CHECKING:
    from pixellm.model import PixelLMConfig, PixelLMForConditionalGeneration, PixelLMProcessor
    from pixellm.predictor import Predictor
    from pixellm.segmenter import load, load_segmenter
    from pixellm.types import Answer, Batch, Sample, Target

    __version__: str

MODULES = {
    "load": "pixellm.segmenter",
    "load_segmenter": "pixellm.segmenter",
    "Predictor": "pixellm.predictor",
    "Answer": "pixellm.types",
    "Target": "pixellm.types",
    "Sample": "pixellm.types",
    "Batch": "pixellm.types",
    "PixelLMConfig": "pixellm.model",
    "PixelLMForConditionalGeneration": "pixellm.model",
    "PixelLMProcessor": "pixellm.model",
}

__all__ = [
    "Answer",
    "Batch",
    "PixelLMConfig",
    "PixelLMForConditionalGeneration",
    "PixelLMProcessor",
    "Predictor",
    "Sample",
    "Target",
    "__version__",
    "load",
    "load_segmenter",
]


def _keep(record: logging.LogRecord) -> bool:
    return "register_constant() on Enum" not in record.getMessage()


# transformers imports torchao wherever it is installed, and torch warns about that import.
logging.getLogger("torch.utils._pytree").addFilter(_keep)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value = version("pixellm")
    elif name == "load" and find_spec("torch") is None:
        value = import_module("pixellm.loading").load_graphs
    elif name in MODULES:
        value = getattr(import_module(MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
