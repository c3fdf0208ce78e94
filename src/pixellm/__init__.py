"""PixelLM: ask a question about an image, get text and one mask for each thing it names (arXiv 2312.02228)."""

from importlib.metadata import version

__version__ = version("pixellm")
