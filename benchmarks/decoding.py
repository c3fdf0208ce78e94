"""Cost of an answer: one image prefix and one pass per codebook group, against decoding as the released code does it.

The released code re-encodes the image and re-reads the whole sequence for every token, codebook tokens included.
Both decode the same answer with the same weights, so the ratio is that of the method alone.

    python benchmarks/decoding.py [--targets 3] [--image example:cat]
"""

import argparse
import json
import time
from pathlib import Path

import torch

from pixellm import hub
from pixellm.images import load_image
from pixellm.model import PixelLMForConditionalGeneration, PixelLMProcessor
from pixellm.model.generation import Sampling, encode_prefix, generate
from pixellm.model.modeling import additive

RESULTS = Path(__file__).parent / "results" / "decoding.json"


class Script:
    """A logits processor that makes the answer's ids what they shall be."""

    def __init__(self, start: int, ids: list[int]) -> None:
        self.start, self.ids = start, ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.ids[input_ids.shape[1] - self.start]] = 0
        return forced


@torch.inference_mode()
def ours(model, processor, pixels, prompt: list[int], answer: list[int]) -> int:
    prefix = encode_prefix(model, pixels["pixel_values"], pixels["resized_hw"], processor.prefix_ids)
    script = Script(len(prefix.text_ids) + len(prompt), answer)
    sampling = Sampling(max_new_tokens=len(answer) + 1, processors=(script,))
    ids = [i for step in generate(model, prefix, [0], [prompt], processor.eos_ids, sampling) for i in step.ids]
    assert [*ids, *processor.eos_ids] == answer
    return len(ids)


@torch.inference_mode()
def released(model, processor, pixels, prompt: list[int], answer: list[int]) -> int:
    """Every token: encode the image, embed the whole sequence, run it without cache."""
    ids = [*processor.prefix_ids, *prompt]
    for token in answer:
        images = model.encode_images(pixels["pixel_values"], pixels["resized_hw"])
        batch = torch.tensor([ids])
        causal = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()[None]
        embeddings = model.embed(batch, images)
        states = model.hidden_states(
            embeddings, additive(causal, embeddings.dtype)[:, None], torch.arange(len(ids))[None]
        )
        model.get_output_embeddings()(states[:, -1])
        ids.append(token)
    return len(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=hub.MINI)
    parser.add_argument("--image", default="example:cat")
    parser.add_argument("--targets", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    directory = hub.resolve(arguments.model)
    model = PixelLMForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    processor = PixelLMProcessor.from_pretrained(directory)
    pixels = processor.images([load_image(arguments.image)])
    prompt = processor.prompt_ids("Segment everything.")
    answer = processor.answer_ids(" and ".join(["the cat {seg}"] * arguments.targets) + ".")
    best = {}
    for decode in (ours, released):
        times = []
        for _ in range(arguments.repeat):
            start = time.perf_counter()
            decode(model, processor, pixels, prompt, answer)
            times.append(time.perf_counter() - start)
        best[decode.__name__] = min(times)
    result = {
        "targets": arguments.targets,
        "answer_tokens": len(answer),
        "threads": torch.get_num_threads(),
        "speed_up_over_released_decoding": round(best["released"] / best["ours"], 1),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
