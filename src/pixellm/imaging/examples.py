"""Example images: three in the package, others read from scikit-image where it is installed."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image


class Example(NamedTuple):
    """Example image: its file in scikit-image's `data` directory, and a caption."""

    file: str
    caption: str


# CC0 by the photographers (cat: Stefan van der Walt, coffee: Rachel Michetti) and public domain (rocket: SpaceX).
SHIPPED = Path(__file__).parent / "example_images"
# Only images inside the scikit-image wheel itself: most of `skimage.data` is downloaded on demand. Public domain,
# CC0 or no known restrictions (docstrings of `skimage.data`); the motorcycle: Middlebury 2014 stereo benchmark.
EXAMPLES: dict[str, Example] = {
    "astronaut": Example("astronaut.png", "an astronaut in an orange suit, a flag and a model shuttle behind her"),
    "cameraman": Example("camera.png", "a man with a camera on a tripod, grey"),
    "cat": Example("chelsea.png", "the face of a cat"),
    "coffee": Example("coffee.png", "a cup of coffee with a spoon on its saucer"),
    "coins": Example("coins.png", "24 old coins in rows, grey"),
    "motorcycle": Example("motorcycle_left.png", "a red motorcycle in a garage"),
    "rocket": Example("rocket.jpg", "a rocket on its launch pad at dusk"),
}


def load_example(name: str) -> Image.Image:
    """Return the example image `name` in RGB; an unknown name is a ValueError that lists all of them."""
    if name not in EXAMPLES:
        raise ValueError(f"expected the name of an example image, got {name!r}. Examples: {', '.join(EXAMPLES)}.")
    path = SHIPPED / EXAMPLES[name].file
    if not path.is_file():
        path = _of_scikit_image(name)
    with Image.open(path) as image:
        return image.convert("RGB")


def _of_scikit_image(name: str) -> Path:
    """Return the file of an example; a ValueError if this scikit-image has none, or a ModuleNotFoundError."""
    import skimage

    # Not through `skimage.data`, which may go to the network for a file that it does not find.
    path = Path(skimage.__file__).parent / "data" / EXAMPLES[name].file
    if not path.is_file():
        raise ValueError(
            f"expected the example {name!r} at {path}, got no such file in scikit-image {skimage.__version__}. "
            "Install scikit-image again, or use an image file."
        )
    return path
