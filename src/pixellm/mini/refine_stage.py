"""Stage that trains the refiner by simulated clicks; everything else keeps its weights.

An episode begins with a mask that the model gives, or with a wrong one made of the wanted mask, and goes through some
clicks, each of which changes the mask that the next one corrects. Most clicks follow the protocol of
`pixellm.eval.clicks`; some are placed anywhere in an error region, or are strokes, as people make them. Where it begins
with a detection's mask, the detector's own marks may come first (`prompted_instances.py`).

Shapes:  H, W image height and width · r side of a region
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import Dataset

from pixellm.eval.clicks import depths
from pixellm.imaging.prompt_region import SIDE, cut, put_back, region_of
from pixellm.imaging.visual_prompts import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, TOP_LEFT, Prompts, sample_stroke
from pixellm.mini.refine_cache import NONE, CachedImage
from pixellm.mini.refiner import Refiner, RegionInputs, region_inputs
from pixellm.model.losses import LossCounts, LossWeights, mask_bce
from pixellm.types import Output

FIRST_RATES = (0.3, 0.5, 0.06, 0.14)  # of first masks: the category's, a detection's, none, a wrong one
DETECTOR_RATE = 0.85  # of episodes that begin with a detection's mask: they are prompted as answers are
BOX_RATE, BOX_NOISE = 0.12, 0.05  # of episodes that begin with a box; its error as a share of its sides
ANYWHERE_RATE, STROKE_RATE = 0.25, 0.08  # of clicks
EARLIER_RATE, MOST_EARLIER = 0.2, 8  # of episodes that begin with a nearly right mask, and clicks that led there
COLOUR = 0.25  # largest relative change of brightness and contrast
ENCODER_DROPOUT = 0.3  # of the encoder's maps, which say more about images that it was trained on
DETECTOR_MAPS = 4


@dataclass
class Episode:
    """An image and the mask that is wanted of it.

    Args:
        pixels: uint8 (3, H, W).
        maps: see `CachedImage`.
        mask: bool (H, W), the first mask.
        wanted: bool (H, W).
        prompts: what was marked already.
        seed: of the clicks.
        prompted: the first mask is corrected by `prompts` alone, before any click.
    """

    pixels: Tensor
    maps: list[Tensor]
    mask: Tensor
    wanted: Tensor
    prompts: Prompts
    seed: int
    prompted: bool = False


@dataclass
class Episodes(Dataset):
    """Episodes on cached images, each image once in an epoch.

    Args:
        paths: files of `CachedImage`.
        length: number of episodes.
        seed: of everything random.
    """

    paths: Sequence[Path]
    length: int
    seed: int = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Episode:
        epoch, place = divmod(index, len(self.paths))
        rng = random.Random(f"{self.seed}:{index}")
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.paths))
        image = CachedImage.load(self.paths[order[place]])
        while not len(image.wanted):
            image = CachedImage.load(rng.choice(self.paths))
        return begin(augmented(image, rng), rng)


def augmented(image: CachedImage, rng: random.Random) -> CachedImage:
    """Mirror an image, change its colours, and leave out the encoder's maps, each at random."""
    maps = image.maps
    if rng.random() < ENCODER_DROPOUT:
        maps = [map_ if at < DETECTOR_MAPS else torch.zeros_like(map_) for at, map_ in enumerate(maps)]
    values = image.pixels.float()
    mean = values.mean()
    values = (values - mean) * rng.uniform(1 - COLOUR, 1 + COLOUR) + mean * rng.uniform(1 - COLOUR, 1 + COLOUR)
    pixels = values.clamp(0, 255).to(torch.uint8)
    wanted, first, marks = image.wanted, image.first, image.marks
    if rng.random() < 0.5:
        pixels, wanted, first = pixels.flip(-1), wanted.flip(-1), first.flip(-1)
        maps = [map_.flip(-1) for map_ in maps]
        x = pixels.shape[-1] - marks[..., 0]
        marks = torch.stack([x[:, [0, 2, 1]], marks[..., 1]], dim=-1)  # what was right is left
    return CachedImage(pixels, maps, wanted, first, image.first_of, marks)


def begin(image: CachedImage, rng: random.Random) -> Episode:
    """Choose what is wanted of an image, and with which mask and prompts the episode begins."""
    row = rng.randrange(len(image.wanted))
    wanted = image.wanted[row]
    prompts, prompted = Prompts(), False
    if rng.random() < EARLIER_RATE:
        mask = spoiled(wanted.numpy(), rng, 0.5)
        prompts = _earlier(mask, wanted.numpy(), rng)
    else:
        kind = rng.choices(("category", "detection", "none", "wrong"), FIRST_RATES)[0]
        chosen = int(image.first_of[row, int(kind == "detection")]) if kind in ("category", "detection") else NONE
        if chosen != NONE:
            mask = image.first[chosen].numpy()
            prompted = kind == "detection" and rng.random() < DETECTOR_RATE
            prompts = _detector_prompts(image.marks[chosen].tolist()) if prompted else prompts
        elif kind == "none":
            mask = np.zeros_like(wanted.numpy())
        else:
            mask = spoiled(wanted.numpy(), rng, 1.0)
    if not prompted and rng.random() < BOX_RATE:
        prompts = prompts.followed_by(_box_around(wanted.numpy(), rng))
    return Episode(image.pixels, image.maps, torch.from_numpy(mask), wanted, prompts, rng.randrange(2**31), prompted)


def _detector_prompts(marks: list[list[float]]) -> Prompts:
    """Return a detection's marks, see `CachedImage`, as prompts."""
    place, top_left, bottom_right = ((x, y) for x, y in marks)
    return Prompts((place, top_left, bottom_right), (FOREGROUND, TOP_LEFT, BOTTOM_RIGHT))


def spoiled(wanted: np.ndarray, rng: random.Random, strength: float) -> np.ndarray:
    """Move the border of a mask (H, W) by a smooth random field; `strength` 1 is about half of the object's radius."""
    noise = np.random.default_rng(rng.randrange(2**32))
    height, width = wanted.shape
    radius = max(2.0, float(np.sqrt(wanted.sum() / np.pi)))
    cells = max(2, round(height / radius)), max(2, round(width / radius))
    field = torch.from_numpy(noise.standard_normal(cells).astype(np.float32))[None, None]
    field = nn.functional.interpolate(field, (height, width), mode="bicubic", align_corners=False)[0, 0].numpy()
    reach = strength * radius * rng.uniform(0.1, 0.6)
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    pad = int(3 * reach) + 2
    window = (
        slice(max(0, rows[0] - pad), rows[-1] + 1 + pad),
        slice(max(0, columns[0] - pad), columns[-1] + 1 + pad),
    )
    part = np.pad(wanted[window], 1)
    signed = (ndimage.distance_transform_edt(part) - ndimage.distance_transform_edt(~part))[1:-1, 1:-1]
    mask = np.zeros_like(wanted)
    mask[window] = signed + reach * (field[window] + rng.uniform(-0.7, 0.7)) > 0
    return mask


def _earlier(mask: np.ndarray, wanted: np.ndarray, rng: random.Random) -> Prompts:
    """Return clicks that a mask may come from: where it is right, near the object."""
    inside = _pick(mask & wanted, rng, rng.randint(1, MOST_EARLIER // 2))
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    near = np.zeros_like(wanted)
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    near[
        max(0, rows[0] - height // 4) : rows[-1] + height // 4,
        max(0, columns[0] - width // 4) : columns[-1] + width // 4,
    ] = True
    outside = _pick(near & ~mask & ~wanted, rng, rng.randint(0, MOST_EARLIER // 2))
    return Prompts((*inside, *outside), (FOREGROUND,) * len(inside) + (BACKGROUND,) * len(outside))


def _pick(region: np.ndarray, rng: random.Random, count: int) -> list[tuple[float, float]]:
    places = np.flatnonzero(region)
    chosen = rng.sample(range(len(places)), min(count, len(places)))
    rows, columns = np.unravel_index(places[chosen], region.shape) if chosen else ((), ())
    return [(float(x) + 0.5, float(y) + 0.5) for y, x in zip(rows, columns, strict=True)]


def _box_around(wanted: np.ndarray, rng: random.Random) -> Prompts:
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    dx, dy = (BOX_NOISE * (high - low) for low, high in ((left, right), (top, bottom)))
    noise = [rng.uniform(-1, 1) * reach for reach in (dx, dy, dx, dy)]
    corners = [float(c) + n for c, n in zip((left, top, right, bottom), noise, strict=True)]
    x, y = max(0.0, corners[0]), max(0.0, corners[1])
    return Prompts.read(box=(x, y, corners[2] - x, corners[3] - y), original_hw=wanted.shape)


def simulated(mask: np.ndarray, wanted: np.ndarray, rng: random.Random) -> Prompts | None:
    """Return a click, or a stroke, that corrects the largest error of a mask (H, W); None: there is none."""
    errors = [(*depths(region), region) for region in (mask & ~wanted, wanted & ~mask)]
    label = int(errors[1][0] >= errors[0][0])
    depth, (row, column), region = errors[label]
    if not depth:
        return None
    centre = (column + 0.5, row + 0.5)
    if rng.random() < ANYWHERE_RATE:
        reach = int(depth * 2)
        near = np.zeros_like(region)
        window = (slice(max(0, row - reach), row + reach + 1), slice(max(0, column - reach), column + reach + 1))
        near[window] = region[window]
        (centre,) = _pick(near, rng, 1)
    if rng.random() < STROKE_RATE:
        (end,) = _pick(region, rng, 1)
        line = [p for p in sample_stroke([centre, end]) if region[int(p[1]), int(p[0])]] or [centre]
        return Prompts(tuple(line), (label,) * len(line))
    return Prompts((centre,), (label,))


def collate_episodes(episodes: Sequence[Episode]) -> dict[str, list]:
    """Gather episodes as keyword arguments of `RefineTraining`."""
    return {"pixel_values": [episode.pixels for episode in episodes], "episodes": list(episodes)}


class RefineTraining(nn.Module):
    """A refiner with its losses, as `Trainer` wants it.

    Args:
        refiner: trains.
        clicks: of each episode.
    """

    def __init__(self, refiner: Refiner, clicks: int) -> None:
        super().__init__()
        self.refiner, self.clicks = refiner, clicks

    def forward(
        self, pixel_values: list[Tensor], episodes: list[Episode], counts: LossCounts, loss_weights: LossWeights
    ) -> Output:
        """Compute the losses after each click, or the first prompts, of all episodes; `pixel_values` are theirs."""
        device = next(self.parameters()).device
        masks, prompts = [e.mask for e in episodes], [e.prompts for e in episodes]
        maps = [[map_.float() for map_ in e.maps] for e in episodes]
        rngs = [random.Random(e.seed) for e in episodes]
        sums: dict[str, list[Tensor]] = {"bce": [], "dice": []}
        for number in range(self.clicks):
            rows, regions, inputs, wanted = [], [], [], []
            for row, episode in enumerate(episodes):
                if number == 0 and episode.prompted:
                    marks, prompts[row] = prompts[row], Prompts()  # whoever clicks later knows nothing of these
                elif clicked := simulated(masks[row].numpy(), episode.wanted.numpy(), rngs[row]):
                    marks = prompts[row] = prompts[row].followed_by(clicked)
                else:
                    continue
                region = region_of(masks[row].numpy(), marks)
                if region is None:
                    continue
                rows.append(row)
                regions.append(region)
                inputs.append(region_inputs(episode.pixels, maps[row], masks[row], marks, region))
                wanted.append(torch.from_numpy(cut(episode.wanted[None].numpy(), region, SIDE)[0]))
            if not rows:
                break
            logits = self.refiner(RegionInputs.stack(inputs))
            bce, dice = _losses(logits, torch.stack(wanted).to(device))
            sums["bce"].append(bce)
            sums["dice"].append(dice)
            for row, region, new in zip(rows, regions, logits.detach().float().cpu().numpy(), strict=True):
                masks[row] = torch.from_numpy(put_back(new, region, episodes[row].mask.shape)[0])
        share = 1 / (self.clicks * counts["images"])
        weights = {"bce": loss_weights.bce, "dice": loss_weights.dice}
        zero = self.refiner.previous_gain * 0
        return Output([], {name: zero + share * weights[name] * sum(values) for name, values in sums.items()})

    def count_terms(self, pixel_values: list[Tensor], **_batch: object) -> LossCounts:
        return Counter(images=len(pixel_values))


def _losses(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and DICE of masks (T, r, r), summed over targets."""
    probability = logits.sigmoid()
    overlap, total = (probability * wanted).sum(dim=(1, 2)), (probability + wanted).sum(dim=(1, 2))
    return mask_bce(logits, wanted), (1 - (2 * overlap + 1) / (total + 1)).sum()
