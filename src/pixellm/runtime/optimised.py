"""Graphs as onnxruntime optimises them, saved once: they open in less than half of the time.

The language model's graph is optimised when it is exported. The others can't be: onnxruntime folds batch normalisation
and transposed matrices into new weights, which lie in a file beside the graph here.
"""

from pathlib import Path

import onnxruntime

from pixellm.runtime.manifest import ENCODE, MASKS

SMALLEST = 1024  # bytes of a weight that lies beside the graph, not in it


def optimised_path(directory: Path, name: str) -> Path:
    """Return where the optimised form of a graph lies, if it has one."""
    return (directory / name).with_suffix(".optimised.onnx")


def optimise_graphs(directory: Path) -> None:
    """Write the optimised graphs of a model beside its graphs and weights, which stay: the browser reads these."""
    for name in (ENCODE, MASKS):
        path = optimised_path(directory, name)
        options = onnxruntime.SessionOptions()
        # All but layouts: they depend on the processor, and are chosen when a graph is opened.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        weights, smallest = path.with_suffix(".bin").name, str(SMALLEST)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", smallest)
        onnxruntime.InferenceSession(directory / name, options, providers=["CPUExecutionProvider"])
