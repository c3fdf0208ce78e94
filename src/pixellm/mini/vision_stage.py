"""First stage for a timm encoder: the pixel side learns to name what is where, and to segment what it is asked by name.

The dense classifier starts from the backbone's own ImageNet classes (`IMAGENET_CLASSES`). No language model runs: of
its knowledge only the embeddings of names are read, so a step costs a fraction of what an answer does.

Shapes:  B images · S side of the square · V names of the vocabulary · M names asked for, of all images
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from pixellm.data.grammar import MIN_CATEGORY_AREA
from pixellm.data.records import AnnotatedImage
from pixellm.mini.augment import AugmentedImages, fit, on_square
from pixellm.mini.class_targets import class_targets
from pixellm.mini.losses import MiniLossWeights
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.mini.vision import ClassifyingEncoder
from pixellm.model.losses import LossCounts, mask_losses
from pixellm.types import Output

# Rare names would otherwise start out as likely as common ones.
INITIAL_CLASS_BIAS = -4.0
# Lower: the evidence of all positions is summed (as logits).
INITIAL_PRESENCE_BIAS = -7.0
# Softmax logits of ImageNet spread wider than the independent ones used here.
IMAGENET_SCALE = 0.3
SMALLEST_FIT = 0.5  # of the square: images are shown down to this size

# ImageNet classes that are instances of a category: indices in ImageNet-1k's usual order (timm.data.ImageNetInfo).
IMAGENET_CLASSES: dict[str, list[int]] = {
    **{"airplane": [404, 895], "apple": [948], "backpack": [414], "banana": [954], "bear": [294, 295, 296, 297]},
    **{"bed": [520, 564, 831], "bench": [703], "bicycle": [444, 671]},
    **{"bird": [*range(7, 25), *range(80, 101), *range(127, 147)]},
    **{"boat": [472, 484, 510, 554, 576, 625, 628, 780, 814, 871, 914], "book": [917, 921], "boot": [514]},
    **{"bottle": [440, 720, 737, 898, 907], "bowl": [659, 809], "bra": [459], "broccoli": [937]},
    **{"bus": [654, 779, 874], "car": [407, 436, 468, 511, 609, 656, 661, 751, 817], "cat": [*range(281, 286)]},
    **{"cell phone": [487], "chair": [423, 559, 765], "clock": [409, 530, 892], "couch": [831], "cow": [345, 346]},
    **{"cup": [504, 968], "dining table": [532], "dog": [*range(151, 269)], "donut": [931], "elephant": [385, 386]},
    **{"fig": [952], "hair drier": [589], "hamburger": [933], "handbag": [748], "hat": [439, 515, 808]},
    **{"horse": [339], "hot dog": [934], "ice cream": [928], "jeans": [608], "keyboard": [508, 878], "knife": [623]},
    **{"laptop": [620, 681], "loafer": [630], "microwave": [651], "monkey": [*range(369, 383)]},
    **{"motorcycle": [665, 670], "mouse": [673], "necklace": [679], "orange": [950], "otter": [360], "oven": [827]},
    **{"parking meter": [704], "person": [981, 982, 983], "pizza": [963], "potted plant": [738], "purse": [748]},
    **{"refrigerator": [760], "remote": [761], "sandal": [774], "sheep": [348, 349], "sink": [896], "skis": [795]},
    **{"skirt": [601, 655, 689], "spoon": [618, 910], "sports ball": [430, 522, 574, 722, 768, 805, 852, 890]},
    **{"stop sign": [919], "suit": [834], "sunglasses": [836, 837], "teddy bear": [850], "tennis racket": [752]},
    **{"tie": [451, 457, 906], "tiger": [292], "toaster": [859], "toilet": [861], "traffic light": [920]},
    **{"train": [466, 547, 705, 820, 829], "truck": [555, 569, 675, 717, 864, 867], "turtle": [*range(33, 38)]},
    **{"tv": [664, 782, 851], "umbrella": [879], "vase": [883], "wallet": [893], "watch": [531, 826]},
    **{"wine glass": [572, 966], "zebra": [340]},
}


def load_backbone(encoder: ClassifyingEncoder, weights: Path, vocabulary: Sequence[str]) -> None:
    """Load ImageNet weights (timm names, classifier included) and start the dense classifier from them."""
    state = load_file(weights)
    head = state.pop("classifier.weight")
    state.pop("classifier.bias")
    encoder.backbone.load_state_dict(state)
    deep, fine = encoder.classifier.deep, encoder.classifier.fine
    with torch.no_grad():
        deep.weight.zero_()
        deep.bias.fill_(INITIAL_CLASS_BIAS)
        fine.weight.mul_(0.1)
        fine.bias.zero_()
        presence = encoder.classifier.presence
        presence.weight.zero_()
        presence.bias.fill_(INITIAL_PRESENCE_BIAS)
        for index, name in enumerate(vocabulary):
            if name in IMAGENET_CLASSES:
                rows = head[IMAGENET_CLASSES[name]].mean(dim=0) - head.mean(dim=0)
                deep.weight[index, :, 0, 0] = IMAGENET_SCALE * rows
                presence.weight[index, :, 0, 0] = IMAGENET_SCALE * rows


def freeze(backbone: nn.Module, parts: Iterable[str], depthwise: bool) -> None:
    """Keep the pretrained weights of modules by name, and of depthwise convolutions unless these train.

    Backward passes through early blocks and depthwise kernels take most of a step's time on a CPU (docs/LOG.md).
    """
    for name in parts:
        backbone.get_submodule(name).requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and not depthwise:
            module.weight.requires_grad_(False)


@dataclass
class VisionSamples(Dataset):
    """Images in a square of `size` pixels, with class targets on the encoder's finest grid and names to segment.

    Args:
        images: the augmented images.
        vocabulary: the V names.
        size, grid: see `class_targets`.
        names: how many names are asked for at most.
        mean, std: of the pixels.
    """

    images: AugmentedImages
    vocabulary: Sequence[str]
    size: int
    grid: int
    names: int
    mean: float = 0.5
    std: float = 0.5

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        annotated, rng = self.images[index]
        annotated = fit(annotated, round(self.size * rng.uniform(SMALLEST_FIT, 1.0)))
        target, weight = class_targets(annotated, self.vocabulary, self.size, self.grid)
        square = on_square(annotated.image, self.size, self.mean, self.std)
        names, masks = self._asked(annotated, rng)
        return {
            "pixel_values": torch.from_numpy(square).permute(2, 0, 1),
            "resized_hw": torch.tensor((annotated.image.height, annotated.image.width)),
            "class_target": torch.from_numpy(target),
            "class_weight": torch.from_numpy(weight),
            "names": names,
            "target_masks": masks,
        }

    def _asked(self, annotated: AnnotatedImage, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Pick names and their masks, bool (M, S, S): on the whole square, whatever part of it the image takes."""
        united = annotated.category_masks()
        large = [n for n, mask in united.items() if n in self.vocabulary and mask.mean() >= MIN_CATEGORY_AREA]
        categories = rng.sample(large, min(self.names, len(large)))
        masks = np.zeros((len(categories), self.size, self.size), dtype=bool)
        for row, name in zip(masks, categories, strict=True):
            row[: annotated.image.height, : annotated.image.width] = united[name]
        names = torch.tensor([self.vocabulary.index(name) for name in categories], dtype=torch.long)
        # Half the resolution tells the losses all that masks of a quarter of it can show.
        return names, torch.from_numpy(masks[:, ::2, ::2])


def collate_vision(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor | list[Tensor]]:
    """Stack what has one size; the masks of each image stay a list."""
    stacked = ("pixel_values", "resized_hw", "class_target", "class_weight")
    return {
        **{key: torch.stack([sample[key] for sample in samples]) for key in stacked},
        "names": torch.cat([sample["names"] for sample in samples]),
        "target_masks": [sample["target_masks"] for sample in samples],
    }


class VisionPretraining(nn.Module):
    """A model with the losses of its pixel side alone, as `Trainer` wants it."""

    def __init__(self, model: MiniForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        model.language_model.requires_grad_(False)

    def forward(
        self,
        pixel_values: Tensor,
        resized_hw: Tensor,
        class_target: Tensor,
        class_weight: Tensor,
        names: Tensor,
        target_masks: list[Tensor],
        counts: LossCounts,
        loss_weights: MiniLossWeights,
    ) -> Output:
        """See `Batch`; `names` (M,) are indexes into the vocabulary, in the order of `target_masks`."""
        images = self.model.encode_images(pixel_values, resized_hw)
        losses = self.model.class_losses(images, class_target, class_weight, counts, loss_weights)
        per_image = [len(masks) for masks in target_masks]
        index = torch.arange(len(per_image)).repeat_interleave(torch.tensor(per_image)).to(names.device)
        logits = self.model.decode_classes(images, names, index)
        square = torch.full_like(resized_hw, pixel_values.shape[-1])  # the padding is to stay empty, too
        answers = torch.arange(len(names), device=names.device).split(per_image)  # names are asked one by one
        logits = list(logits.split(per_image))
        losses |= mask_losses(logits, target_masks, square, answers, counts, loss_weights)
        return Output([], losses)

    def count_terms(self, target_masks: list[Tensor], resized_hw: Tensor, **_batch: object) -> LossCounts:
        """Count what the losses of a batch are averaged over: `masks` and `images`."""
        return Counter(masks=sum(map(len, target_masks)), images=len(resized_hw))
