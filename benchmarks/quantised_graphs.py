"""Metrics of a model on onnxruntime with its language model in float32, int8 and int4.

    python benchmarks/quantised_graphs.py instances_val.json images --limit 200 [--seed a] [--out DIR]

The answers that it generates about annotated images are scored as `pixellm eval --annotations` scores them.

All precisions answer the same questions. Images are drawn by a hash of the seed's name and their id, so that those of a
smaller limit are among those of a larger one. Graphs that OUT lacks are exported first (pixellm-mini's own are int8);
interrupted, the same command resumes. Answers, reports and metrics.json are in OUT.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pixellm.eval.answering import answer_all, fingerprint
from pixellm.eval.benchmarks import Benchmark
from pixellm.eval.coco_benchmark import load_coco
from pixellm.eval.predictions import read_predictions
from pixellm.eval.protocols import choose_protocol
from pixellm.eval.report import BenchmarkReport, score
from pixellm.graphs.export import export
from pixellm.hub.models import MINI, resolve_graphs
from pixellm.hub.systems import identify
from pixellm.loading import load_graphs
from pixellm.runtime.manifest import MANIFEST, WEIGHTS, Precision
from pixellm.segmenter import load
from pixellm.utils.files import atomic_directory, write_text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("annotations", type=Path, help="COCO-format file.")
    parser.add_argument("images", type=Path, help="Folder of its images.")
    parser.add_argument("--limit", type=int, help="Number of images. Default: all.")
    parser.add_argument("--seed", default="a", help="Name of the seed by which images are drawn.")
    parser.add_argument("--model", default=MINI, help="Name or directory.")
    parser.add_argument("--precisions", nargs="+", choices=get_args(Precision), default=get_args(Precision))
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("build/quantised_graphs"))
    options = parser.parse_args(arguments)
    benchmark = drawn(load_coco(options.annotations, options.images), options.limit, options.seed)
    rows: dict[str, dict[str, float]] = {}
    for precision in options.precisions:
        graphs = graphs_of(options.model, precision, options.out)
        report = measure(benchmark, graphs, options.max_new_tokens, options.out / f"{options.seed}-{precision}")
        rows[precision] = {"bytes": (graphs / WEIGHTS).stat().st_size} | dict(report.overall.values)
        print(precision, *(f"  {name} {value:.4g}" for name, value in rows[precision].items()), sep="\n")
    facts = {"annotations": options.annotations.name, "images": options.limit, "questions": len(benchmark.questions)}
    content = facts | {"seed": options.seed, "model": options.model, "metrics": rows}
    write_text(options.out / "metrics.json", json.dumps(content, indent=2) + "\n")


def drawn(benchmark: Benchmark, limit: int | None, seed: str) -> Benchmark:
    """Return the questions on `limit` images, in the order of the benchmark."""
    ids = dict.fromkeys(question.image_id for question in benchmark.questions)
    order = sorted(ids, key=lambda image: hashlib.sha256(f"{seed}/{image}".encode()).digest())
    kept = set(order[:limit])
    return replace(benchmark, questions=tuple(q for q in benchmark.questions if q.image_id in kept))


def graphs_of(model: str, precision: Precision, out: Path) -> Path:
    """Return the directory of a model's graphs, exported first if needed."""
    if model == MINI and precision == "int8":
        return resolve_graphs(MINI)
    directory = out / f"graphs-{precision}"
    if not (directory / MANIFEST).is_file():
        predictor = load(model)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with atomic_directory(directory) as folder:
            export(predictor.model, predictor.processor, folder, precision)
    return directory


def measure(benchmark: Benchmark, graphs: Path, max_new_tokens: int, out: Path) -> BenchmarkReport:
    """Answer the questions that are not answered yet, score all answers and write the report."""
    segmenter = load_graphs(graphs, sampling={"max_new_tokens": max_new_tokens})
    made = fingerprint(benchmark, identify(graphs), graphs.name, teacher_forced=False)
    path = answer_all(segmenter, benchmark, out, made, teacher_forced=False, progress=True)
    assert path is not None, "one process answers"
    report = score(benchmark, read_predictions(path), choose_protocol(benchmark.name, None))
    report.write(out)
    return report


if __name__ == "__main__":
    main()
