"""Content of the page, whatever serves it: its files, example images, and configuration."""

import importlib.util
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import pixellm
from pixellm.imaging.examples import EXAMPLES, SHIPPED, load_example

PAGE = Path(__file__).parent / "page"
SHARED = Path(pixellm.__file__).parent / "page"
THUMBNAIL = 320  # pixels of the longer side
# Example images of the page, each with a suggested question.
QUESTIONS = {
    "cat": "Segment the cat.",
    "coffee": "Segment the cup and the spoon.",
    "motorcycle": "What could I ride on?",
    "astronaut": "Segment the person and the flag.",
    "cameraman": "Segment the person and the camera.",
    "rocket": "Segment the rocket.",
}


def examples() -> list[str]:
    """Return the names of the example images that are here: some are in scikit-image."""
    more = importlib.util.find_spec("skimage") is not None
    return [name for name in QUESTIONS if more or (SHIPPED / EXAMPLES[name].file).is_file()]


def about(model: str, max_turns: int, max_question_chars: int, min_score: float) -> dict[str, Any]:
    """Return the page's configuration; arguments as in `ServeSettings`."""
    from pixellm.imaging.overlay import COLOURS, OPACITY, ink_on  # slow import, not needed without the page

    return {
        "model": model,
        "colours": [{"colour": colour, "ink": ink_on(i)} for i, colour in enumerate(COLOURS)],
        "opacity": OPACITY,
        "examples": [
            {"name": name, "caption": EXAMPLES[name].caption, "question": QUESTIONS[name]} for name in examples()
        ],
        "max_turns": max_turns,
        "max_question_chars": max_question_chars,
        "min_score": min_score,
    }


@lru_cache(maxsize=2 * len(QUESTIONS))
def example_image(name: str) -> bytes:
    """Encode an example image as PNG."""
    return _encoded(name, "PNG", None)


@lru_cache(maxsize=2 * len(QUESTIONS))
def example_thumbnail(name: str) -> bytes:
    """Encode an example image as a small JPEG."""
    return _encoded(name, "JPEG", THUMBNAIL)


def _encoded(name: str, file_format: str, longest_side: int | None) -> bytes:
    image = load_example(name)
    if longest_side is not None:
        image.thumbnail((longest_side, longest_side))
    stream = io.BytesIO()
    image.save(stream, file_format)
    return stream.getvalue()
