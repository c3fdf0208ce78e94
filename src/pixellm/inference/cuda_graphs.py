"""Forward passes as CUDA graphs: a step is hundreds of small kernels, whose launches take longer than they do.

A graph makes the same kernels again on the same memory. So what a step reads is copied to where the first one had it,
keys and values have a room that stays where it is, and all of that room is attended to; the mask hides what isn't there
yet.

Shapes:  R rows · W tokens of a step · D LLM width · L tokens that there is room for
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaModel

from pixellm.inference.batch_invariant import RowInputs
from pixellm.model.modeling import PixelLMForConditionalGeneration

ROOM = 256  # tokens; when they are used up, graphs are recorded anew
PATIENCE = 3  # plain passes of a width before it is recorded, which takes as long as some of them


def recordable(model: PixelLMForConditionalGeneration) -> bool:
    """Whether passes can be recorded: on an NVIDIA GPU, and of models that never wait for what they compute."""
    base = model.language_model.base_model
    return model.device.type == "cuda" and type(base) is LlamaModel and "dynamic" not in base.rotary_emb.rope_type


class Recorder:
    """The forward passes of rows that stay the same, recorded when a width has come some times."""

    def __init__(self) -> None:
        self._recorded: dict[int, _Recorded] = {}
        self._plain: Counter[int] = Counter()

    def run(self, model: PixelLMForConditionalGeneration, inputs: RowInputs) -> Tensor:
        """Last-layer states (R, W, D), as `PixelLMForConditionalGeneration.hidden_states` has them."""
        width = inputs.embeddings.shape[1]
        if recordable(model):
            if inputs.cache.reserve(width, ROOM):
                self._recorded.clear()
            if width in self._recorded or self._plain[width] >= PATIENCE:
                if width not in self._recorded:
                    self._recorded[width] = _Recorded(model, inputs)
                return self._recorded[width].run(inputs)
            self._plain[width] += 1
        return model.hidden_states(inputs.embeddings, inputs.attention_mask, inputs.position_ids, inputs.cache)


class _Recorded:
    """One forward pass, and the tensors that it reads."""

    def __init__(self, model: PixelLMForConditionalGeneration, inputs: RowInputs) -> None:
        cache, mask = inputs.cache, inputs.attention_mask
        self.embeddings, self.position_ids = torch.empty_like(inputs.embeddings), torch.empty_like(inputs.position_ids)
        self.attention_mask = mask.new_full((*mask.shape[:-1], cache.room), torch.finfo(mask.dtype).min)
        self.offsets = torch.arange(mask.shape[2], device=mask.device)
        self.columns = torch.empty_like(self.offsets)
        self._fill(inputs)

        def run() -> Tensor:
            with cache.writing_at(self.columns):
                return model.hidden_states(self.embeddings, self.attention_mask, self.position_ids, cache)

        self._again = record(run, model.device)

    def run(self, inputs: RowInputs) -> Tensor:
        self._fill(inputs)
        states = self._again()
        inputs.cache.wrote(len(self.columns))
        return states

    def _fill(self, inputs: RowInputs) -> None:
        self.embeddings.copy_(inputs.embeddings)
        self.position_ids.copy_(inputs.position_ids)
        self.attention_mask[..., : inputs.attention_mask.shape[-1]].copy_(inputs.attention_mask)
        torch.add(self.offsets, inputs.cache.get_seq_length(), out=self.columns)


def record(run: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """What makes the kernels of `run` on a GPU again, and gives a copy of its result."""
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
            result = run()

    def replay() -> Tensor:
        with torch.cuda.device(device):
            graph.replay()
        return result.clone()

    return replay
