"""Cost of a training step: against a plain loop as in the released code, and against its matrix products alone.

The plain loop has a row for each conversation, encodes the image for each, and decodes target by target, features
upsampled for each. Both take the same step: the same weights, texts and masks, and (checked) the same losses. The
products are those that our step was seen to make, forward and backward, and nothing else: no step can take less.

The model is of a middle size, with random weights: a ViT of 12 layers and width 384 at 448 pixels, frozen; a LLaMA of 8
layers and width 768 with adapters of rank 8; a decoder of width 256.

    python -m benchmarks.training [--images 2] [--conversations 4] [--targets 2] [--bf16]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.products import Products
from benchmarks.speed import released_decoder
from benchmarks.speed.models import mid
from pixellm.model import PixelLMConfig, PixelLMForConditionalGeneration
from pixellm.model.codebook import find_groups
from pixellm.model.losses import IGNORE_INDEX, mask_losses, text_loss
from pixellm.model.modeling import IMAGE_TOKEN_ID
from pixellm.model.packing import packed_attention_bias, packed_positions
from pixellm.train.model_kind import adapt
from pixellm.train.pixellm_kind import PixelLMKind
from pixellm.train.recipe import AdapterConfig
from pixellm.types import Batch

RESULTS = Path(__file__).parent / "results"
SYSTEM, QUESTION, PHRASE = 35, 20, 8  # tokens of the system text, of a question, and before each mask
PHOTOGRAPH = (480, 640)


def build(seed: int = 0) -> PixelLMForConditionalGeneration:
    torch.manual_seed(seed)
    model = PixelLMForConditionalGeneration(mid())
    kind = PixelLMKind()
    adapt(model, kind, AdapterConfig(targets=("q_proj", "v_proj")), kind.trained_parts(model.config))
    return model.train()


def packed(config: PixelLMConfig, images: int, conversations: int, targets: int) -> Batch:
    """Random texts and masks: a row for each image."""
    draw = torch.Generator().manual_seed(0)

    def words(count: int) -> list[int]:
        return torch.randint(3, 32000, (count,), generator=draw).tolist()

    ids, segments, labels = [], [], []
    for _ in range(images):
        row = [*words(SYSTEM), *[IMAGE_TOKEN_ID] * config.num_image_tokens]
        segment, label = [0] * len(row), [IGNORE_INDEX] * len(row)
        for number in range(1, conversations + 1):
            question = words(QUESTION)
            answer = [i for _ in range(targets) for i in (*words(PHRASE), *config.codebook_ids)] + words(2)
            row += question + answer
            label += [IGNORE_INDEX] * len(question) + answer
            segment += [number] * len(question + answer)
        ids, segments, labels = [*ids, row], [*segments, segment], [*labels, label]
    size = config.vision_config.image_size
    pixels = torch.randn(images, 3, size, size, generator=draw)
    masks = [torch.rand(conversations * targets, *PHOTOGRAPH, generator=draw) > 0.7 for _ in range(images)]
    resized = torch.tensor([[size * PHOTOGRAPH[0] // PHOTOGRAPH[1], size]] * images)
    return Batch(pixels, resized, torch.tensor(ids), torch.tensor(segments), torch.tensor(labels), masks)


def unpacked(batch: Batch, conversations: int) -> Batch:
    """The same with a row for each conversation, and its image once more for each."""
    ids, segments, labels = [], [], []
    for row, segment, label in zip(batch.input_ids, batch.segment_ids, batch.labels, strict=True):
        for number in range(1, conversations + 1):
            chosen = (segment == 0) | (segment == number)
            ids.append(row[chosen])
            segments.append(segment[chosen].clamp(max=1))
            labels.append(label[chosen])
    return Batch(
        batch.pixel_values.repeat_interleave(conversations, dim=0),
        batch.resized_hw.repeat_interleave(conversations, dim=0),
        torch.stack(ids),
        torch.stack(segments),
        torch.stack(labels),
        [part for masks in batch.target_masks for part in masks.chunk(conversations)],
    )


def our_loss(model: PixelLMForConditionalGeneration, batch: Batch) -> Tensor:
    return model(**{name: value for name, value in vars(batch).items() if value is not None}).loss


def plain_loss(model: PixelLMForConditionalGeneration, batch: Batch) -> Tensor:
    """Row by row of one conversation; masks target by target."""
    config, ids, weights = model.config, batch.input_ids, model.default_loss_weights
    images = released_decoder.encode(model, batch.pixel_values, batch.resized_hw)  # prepared below, for each target
    embeddings = model.embed(ids, images)
    bias = packed_attention_bias(batch.segment_ids, ~model._padding_tokens(ids, images), embeddings.dtype)
    states = model.hidden_states(embeddings, bias, packed_positions(batch.segment_ids))
    counts = model.count_terms(batch.labels, batch.target_masks)
    ce = weights.ce * text_loss(model.get_output_embeddings(), states, batch.labels) / counts["tokens"]
    groups = find_groups(ids, config.codebook_ids)
    logits: list[list[Tensor]] = [[] for _ in range(len(ids))]
    for row, position in groups.tolist():
        group = states[row, position : position + len(config.codebook_ids)]
        maps = model.pixel_decoder.prepare([map_[row : row + 1] for map_ in images.maps])
        mask = model.pixel_decoder(maps, model.codebook(group), torch.zeros(1, dtype=torch.long))
        logits[row].append(mask[0])
    stacked = [torch.stack(row) for row in logits]
    answers = [torch.zeros(len(row), dtype=torch.long) for row in stacked]
    masks = mask_losses(stacked, batch.target_masks, batch.resized_hw, answers, counts, weights)
    return ce + masks["bce"] + masks["dice"]


def stepper(loss: Callable[..., Tensor], batch: Batch, bf16: bool) -> tuple[Callable[[], float], nn.Module]:
    """A training step with all that belongs to it; returns its loss."""
    model = build()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(model, batch)
        value.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(value.detach())

    return step, model


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def added_memory(step: Callable[[], float]) -> int:
    """Bytes that two steps add at most, looked at every few milliseconds."""
    before, seen, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            seen.append(resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    step(), step()
    done.set()
    watcher.join()
    return max(seen)


def measured_memory(arguments: argparse.Namespace, which: str) -> int:
    """What `added_memory` says in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], "--memory-of", which]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--conversations", type=int, default=4)
    parser.add_argument("--targets", type=int, default=2, help="of each conversation")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--memory-of", choices=("ours", "plain"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    ours = packed(build().config, arguments.images, arguments.conversations, arguments.targets)
    plain = unpacked(ours, arguments.conversations)
    kinds = {"ours": (our_loss, ours), "plain": (plain_loss, plain)}
    if arguments.memory_of:
        step, _ = stepper(*kinds[arguments.memory_of], arguments.bf16)
        print(added_memory(step))
        return
    steps = {name: stepper(*kind, arguments.bf16)[0] for name, kind in kinds.items()}
    losses = {name: step() for name, step in steps.items()}
    if abs(losses["ours"] / losses["plain"] - 1) > (0.01 if arguments.bf16 else 1e-4):
        raise SystemExit(f"expected the same loss of the same step, got {losses}")
    step, model = stepper(*kinds["ours"], arguments.bf16)
    with Products(model.parameters()) as products:
        step()
    steps["products"] = products.replay
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.repeat):  # in turns: what else the machine does meets all alike
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    memory = {name: measured_memory(arguments, name) for name in kinds}
    result = {
        "images": arguments.images,
        "conversations_per_image": arguments.conversations,
        "targets_per_conversation": arguments.targets,
        "dtype": "bfloat16" if arguments.bf16 else "float32",
        "threads": torch.get_num_threads(),
        "products": len(products.calls),
        "plain_loop_over_ours": round(middle["plain"] / middle["ours"], 2),
        "ours_over_products": round(middle["ours"] / middle["products"], 2),
        "memory_of_plain_loop_over_ours": round(memory["plain"] / memory["ours"], 2),
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"training_{result['dtype']}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
