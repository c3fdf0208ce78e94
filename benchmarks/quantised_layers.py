"""One linear layer: fp32 and bf16 against torchao's layers at 8 and 4 bits, and against the same with torch's kernels.

Weights come from memory each time, as they do in a model: as many layers as the cache can't hold take turns. Writes the
table of docs/decisions/quantisation.md.

    python benchmarks/quantised_layers.py [--repeat 30]
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

from pixellm.eval.comparison import write_into
from pixellm.inference.quantization import Int4Linear, Int8Linear, layer_config
from pixellm.utils.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "quantised_layers.json", ROOT / "docs/decisions/quantisation.md"
CPU = torch.device("cpu")
SIZES = ((768, 2048), (1024, 4096), (4096, 11008))
ROWS = (1, 6, 16, 300)  # a text token, a codebook group, where the ways part, an image and its system text
CACHE = 96 << 20  # bytes of weights that no cache holds
PATIENCE = 2.0  # seconds for one figure


def torchao_layer(layer: nn.Linear, config) -> nn.Module:
    holder = nn.Sequential(copy.deepcopy(layer))
    quantize_(holder, config)
    return holder[0]


def int8(layer: nn.Linear) -> nn.Module:
    weight = torchao_layer(layer, layer_config("int8", layer.in_features, CPU)).weight
    return Int8Linear(weight.qdata, weight.scale.flatten(), None)


def int4(layer: nn.Linear) -> nn.Module:
    weight = torchao_layer(layer, layer_config("int4", layer.in_features, CPU)).weight
    return Int4Linear(weight.qdata, weight.scale_and_zero, None, weight.block_size[1])


def ways() -> dict[str, Callable[[nn.Linear], nn.Module]]:
    """What a layer can be made into."""
    groups = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(128))
    return {
        "torchao int8": lambda layer: torchao_layer(layer, layer_config("int8", layer.in_features, CPU)),
        "torchao int4": lambda layer: torchao_layer(layer, layer_config("int4", layer.in_features, CPU)),
        "torchao intx": lambda layer: torchao_layer(layer, groups),
        "ours, int8": int8,
        "ours, int4": int4,
    }


def milliseconds(layers: list[nn.Module], states: Tensor, repeat: int) -> float:
    """The quickest of `repeat` products, by layers in turn; fewer of those that take long."""
    times: list[float] = []
    while len(times) < repeat and sum(times) < PATIENCE:
        layer = layers[len(times) % len(layers)]
        start = time.perf_counter()
        layer(states)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


@torch.inference_mode()
def measure(inputs: int, outputs: int, repeat: int) -> list[dict]:
    count = max(2, CACHE // (inputs * outputs))
    plain = [nn.Linear(inputs, outputs, bias=False) for _ in range(count)]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        layers: dict[str, list[nn.Module]] = {"plain": [copy.deepcopy(layer).to(dtype) for layer in plain]}
        for name, make in ways().items():
            layers[name] = [make(layer) for layer in layers["plain"]]
        for rows in ROWS:
            states = torch.randn(rows, inputs).to(dtype)
            times = {name: round(milliseconds(chosen, states, repeat), 3) for name, chosen in layers.items()}
            precision = str(dtype).removeprefix("torch.")
            found.append({"layer": f"{inputs} → {outputs}", "rows": rows, "dtype": precision, "milliseconds": times})
            print(json.dumps(found[-1], ensure_ascii=False), flush=True)
    return found


def table(found: list[dict]) -> str:
    """Times as shares of the fp32 layer's: below 1 is quicker."""
    names = list(found[0]["milliseconds"])
    header = ["layer", "rows", "states", *names]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for one in found:
        fp32 = next(
            other["milliseconds"]["plain"]
            for other in found
            if (other["layer"], other["rows"], other["dtype"]) == (one["layer"], one["rows"], "float32")
        )
        shares = [f"{one['milliseconds'][name] / fp32:.2f}" for name in names]
        lines.append([one["layer"], str(one["rows"]), {"float32": "fp32"}.get(one["dtype"], "bf16"), *shares])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=30)
    repeat = parser.parse_args().repeat
    torch.manual_seed(0)
    found = [one for size in SIZES for one in measure(*size, repeat)]
    report = {
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "layers": found,
    }
    write_text(RESULTS, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_into(DOCUMENT, table(found), "layers")


if __name__ == "__main__":
    main()
