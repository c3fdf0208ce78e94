"""Decoding steps as CUDA graphs: a step is hundreds of small kernels, which take longer to launch than to run.

A graph replays the same kernels on the same memory. So the inputs of a step are copied to the memory of the recorded
one, the KV cache is preallocated, and attention reads all of it, with columns that are not written yet masked.

Shapes:  R rows · W tokens of a step · D LLM width
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaModel

from pixellm.inference.batch_invariant import RowInputs
from pixellm.model.modeling import PixelLMForConditionalGeneration

SPARE_TOKENS = 256  # allocated at once; when they are used up, graphs are recorded anew
WARMUP_STEPS = 3  # plain steps of a width before it is recorded, which takes as long as several of them


def recordable(model: PixelLMForConditionalGeneration) -> bool:
    """Return whether steps can be recorded: on an NVIDIA GPU, by models that never synchronise with it."""
    base = model.text_model
    return model.device.type == "cuda" and type(base) is LlamaModel and "dynamic" not in base.rotary_emb.rope_type


class Recorder:
    """Records the decoding steps of a fixed set of rows, one graph per step width."""

    def __init__(self) -> None:
        self._recorded: dict[int, _Recorded] = {}
        self._plain: Counter[int] = Counter()

    def run(self, model: PixelLMForConditionalGeneration, inputs: RowInputs) -> Tensor:
        """Return last-layer states (R, W, D), see `PixelLMForConditionalGeneration.hidden_states`."""
        width = inputs.embeddings.shape[1]
        if recordable(model):
            if inputs.cache.reserve(width, SPARE_TOKENS):
                self._recorded.clear()
            if width in self._recorded or self._plain[width] >= WARMUP_STEPS:
                if width not in self._recorded:
                    self._recorded[width] = _Recorded(model, inputs)
                return self._recorded[width].run(inputs)
            self._plain[width] += 1
        return model.hidden_states(inputs.embeddings, inputs.attention_mask, inputs.position_ids, inputs.cache)


class _Recorded:
    """One recorded forward pass and its input tensors."""

    def __init__(self, model: PixelLMForConditionalGeneration, inputs: RowInputs) -> None:
        cache, mask = inputs.cache, inputs.attention_mask
        self.embeddings, self.position_ids = torch.empty_like(inputs.embeddings), torch.empty_like(inputs.position_ids)
        self.attention_mask = mask.new_full((*mask.shape[:-1], cache.capacity), torch.finfo(mask.dtype).min)
        self.offsets = torch.arange(mask.shape[2], device=mask.device)
        self.columns = torch.empty_like(self.offsets)
        self._fill(inputs)

        def run() -> Tensor:
            with cache.writing_at(self.columns):
                return model.hidden_states(self.embeddings, self.attention_mask, self.position_ids, cache)

        self._replay = record(run, model.device)

    def run(self, inputs: RowInputs) -> Tensor:
        self._fill(inputs)
        states = self._replay()
        inputs.cache.advance(len(self.columns))
        return states

    def _fill(self, inputs: RowInputs) -> None:
        self.embeddings.copy_(inputs.embeddings)
        self.position_ids.copy_(inputs.position_ids)
        self.attention_mask[..., : inputs.attention_mask.shape[-1]].copy_(inputs.attention_mask)
        torch.add(self.offsets, inputs.cache.get_seq_length(), out=self.columns)


def record(run: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Record the kernels of `run` and return a function that replays them and returns a copy of the result."""
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
            result = run()

    def replay() -> Tensor:
        with torch.cuda.device(device):
            graph.replay()
        return result.clone()

    return replay
