"""Exported models by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixellm.hub.models import resolve_graphs
from pixellm.runtime.predictor import RuntimePredictor
from pixellm.runtime.processing import RuntimeProcessor
from pixellm.runtime.session import Graphs


def load_graphs(
    name: str | Path,
    system: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    min_score: float = 0.0,
    threads: int = 0,
    wait: bool = True,
) -> RuntimePredictor:
    """Load a model that is exported, or pixellm-mini, to run without torch.

    Args:
        name: pixellm-mini, or a directory that `pixellm models export` wrote.
        system: see `BasePredictor`.
        sampling: see `BasePredictor`.
        min_score: see `BasePredictor`.
        threads: see `Graphs`.
        wait: see `Graphs`.

    Raises:
        ValueError: no such model, a damaged one, or a wrong `min_score`.
    """
    directory = resolve_graphs(name)
    graphs = Graphs(directory, threads, wait)
    processor = RuntimeProcessor.from_directory(directory)
    return RuntimePredictor(graphs, processor, system, sampling, min_score=min_score)
