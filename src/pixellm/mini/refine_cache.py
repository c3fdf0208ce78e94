"""Cache of the stage that trains refinement: of each image its pixels, frozen feature maps, and first masks.

The encoders and the mask decoders are frozen, so an image is encoded once, and an epoch reads files.

Shapes:  W wanted masks of an image · K first masks · H, W image height and width
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixellm.data.mixture import Mixture
from pixellm.data.records import AnnotatedImage
from pixellm.imaging import masks
from pixellm.imaging.postprocess import binarize
from pixellm.imaging.prompt_region import cropped
from pixellm.mini.instances import SURE_SCORE
from pixellm.mini.modeling import ClassifiedImages, MiniForConditionalGeneration
from pixellm.mini.prompted_instances import likeliest_places
from pixellm.model import PixelLMImageProcessor
from pixellm.utils.files import atomic_write

SMALLEST = 100  # pixels of a wanted mask
MOST_WANTED = 12  # of an image
MATCHED_IOU = 0.3  # of masks: a detection's mask is a first mask of the instance that it overlaps by as much
NONE = -1


@dataclass
class CachedImage:
    """An image as training reads it.

    Args:
        pixels: uint8 (3, H, W).
        maps: fp16 feature maps (c, h, w), cropped to the image, see `pixellm.imaging.prompt_region.cropped`.
        wanted: bool (W, H, W): instances, and unions of all instances of a category.
        first: bool (K, H, W), masks of the model without any prompt.
        first_of: (W, 2) rows of `first`: the mask of the wanted mask's category, and that of a detection; -1: none.
        marks: (K, 3, 2) x and y in pixels: the likeliest place of a detection's mask, and the corners of its box.
    """

    pixels: Tensor
    maps: list[Tensor]
    wanted: Tensor
    first: Tensor
    first_of: Tensor
    marks: Tensor

    def save(self, path: Path) -> None:
        """Write the image to a file, masks as bits."""
        state = {"pixels": self.pixels, "first_of": self.first_of, "marks": self.marks}
        state |= {f"maps.{index}": map_.half().contiguous() for index, map_ in enumerate(self.maps)}
        for name, stack in (("wanted", self.wanted), ("first", self.first)):
            state[name] = torch.from_numpy(np.packbits(stack.numpy(), axis=-1)).contiguous()
        with atomic_write(path) as temporary:
            save_file(state, temporary)

    @classmethod
    def load(cls, path: Path) -> "CachedImage":
        state = load_file(path)
        width = state["pixels"].shape[-1]
        wanted, first = (
            torch.from_numpy(np.unpackbits(state[name].numpy(), axis=-1, count=width).astype(bool))
            for name in ("wanted", "first")
        )
        maps = [state[f"maps.{index}"] for index in range(sum(name.startswith("maps.") for name in state))]
        return cls(state["pixels"], maps, wanted, first, state["first_of"], state["marks"])


def cache_images(
    model: MiniForConditionalGeneration, processor: PixelLMImageProcessor, mixture: Mixture, directory: Path
) -> list[Path]:
    """Encode the samples of a mixture's epoch that `directory` lacks; return the files of those with wanted masks."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(len(mixture)):
        path = directory / f"{index:05}.safetensors"
        if not path.exists():
            record, rng = mixture[index]
            cached_image(model, processor, record.decode(), rng).save(path)
        paths.append(path)
    return paths


@torch.inference_mode()
def cached_image(
    model: MiniForConditionalGeneration,
    processor: PixelLMImageProcessor,
    annotated: AnnotatedImage,
    rng: random.Random,
) -> CachedImage:
    """Encode an image, and decode the first masks of what is wanted of it."""
    inputs = processor([annotated.image])
    hw = inputs["resized_hw"]
    images = model.encode_images(inputs["pixel_values"].to(model.device, model.dtype), hw)
    wanted, names, single = _wanted(annotated, rng)
    vocabulary = model.config.vision_config.vocabulary
    named = [name for name in dict.fromkeys(names) if name in vocabulary]
    classes = torch.tensor([vocabulary.index(name) for name in named], dtype=torch.long)
    resized, original = (int(hw[0, 0]), int(hw[0, 1])), (annotated.image.height, annotated.image.width)
    logits = model.decode_classes(images, classes, torch.zeros_like(classes)) if named else torch.zeros(0, 1, 1)
    share = model.peak_share
    first = [masks.decode(mask.rle, *original) for mask in binarize(logits, resized, original, share)]
    detected, places = _detected(model, images)
    drawn = [masks.decode(mask.rle, *original) for mask in binarize(detected, resized, original, share)]
    scale = torch.tensor([original[1] / resized[1], original[0] / resized[0]])
    marks = [torch.zeros(3, 2) for _ in first]
    first_of = np.full((len(wanted), 2), NONE, dtype=np.int64)
    for row, (mask, name, alone) in enumerate(zip(wanted, names, single, strict=True)):
        if name in named:
            first_of[row, 0] = named.index(name)
        overlaps = [(mask & other).sum() / (mask | other).sum() for other in drawn] if alone else []
        if overlaps and max(overlaps) >= MATCHED_IOU:
            first_of[row, 1] = len(first)
            number = int(np.argmax(overlaps))
            first.append(drawn[number])
            marks.append(places[number] * scale)
    stack = np.stack(first) if first else np.zeros((0, *original), dtype=bool)
    return CachedImage(
        pixels=torch.from_numpy(np.array(annotated.image.convert("RGB"))).permute(2, 0, 1).contiguous(),
        maps=cropped(images.refine_maps, 0, hw[0].tolist(), inputs["pixel_values"].shape[-1]),
        wanted=torch.from_numpy(np.stack(wanted) if wanted else np.zeros((0, *original), dtype=bool)),
        first=torch.from_numpy(stack),
        first_of=torch.from_numpy(first_of),
        marks=torch.stack(marks) if marks else torch.zeros(0, 3, 2),
    )


def _wanted(annotated: AnnotatedImage, rng: random.Random) -> tuple[list[np.ndarray], list[str], list[bool]]:
    """Return masks, their categories, and whether each is one instance."""
    found = [(i.mask, i.category, not i.merged) for i in annotated.instances]
    for name, mask in annotated.category_masks().items():
        if sum(category == name for _, category, _ in found) > 1:
            found.append((mask, name, False))
    found = [row for row in found if row[0].sum() >= SMALLEST]
    chosen = found if len(found) <= MOST_WANTED else rng.sample(found, MOST_WANTED)
    return [row[0] for row in chosen], [row[1] for row in chosen], [row[2] for row in chosen]


def _detected(model: MiniForConditionalGeneration, images: ClassifiedImages) -> tuple[Tensor, Tensor]:
    """Return mask logits (K, S, S) of an image's detections before refinement, and their `marks` in the square."""
    objects, hw = images.objects, images.resized_hw
    assert model.instances is not None
    assert objects is not None
    sure = (objects.detections.valid[0] & (objects.detections.scores[0] >= SURE_SCORE)).nonzero()[:, 0]
    columns = torch.tensor(model.config.vision_config.detector_columns)[objects.detections.classes[0, sure]]
    index = torch.zeros_like(sure)
    shares = F.one_hot(columns, len(model.config.vision_config.vocabulary)).to(model.dtype)
    chosen = F.one_hot(sure, objects.detections.valid.shape[1]).bool()
    found: list[Tensor] = []

    def keep(logits: Tensor, boxes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        size = objects.pixels.shape[-1]
        places = likeliest_places(logits.float().sigmoid(), boxes, hw[rows], size)
        found.extend((logits, torch.cat([places[:, None], boxes.float().unflatten(1, (2, 2))], dim=1)))
        return logits, torch.ones_like(logits, dtype=torch.bool)

    regions = model.decode_regions(images, shares, index)
    model.instances(objects, images.mask_maps, images.class_logits, chosen, regions, hw, index, keep)
    return found[0], found[1].cpu()
