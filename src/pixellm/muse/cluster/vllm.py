"""Replies by vLLM on the cluster's own GPUs, in place of a server: `ray.data.llm`.

images → PrepareRequests (messages) → processor (vLLM) → StoreReplies (reply → records, at the coordinator)
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pixellm.muse.annotation_index import AnnotationIndex
from pixellm.muse.cluster.worker import Columns
from pixellm.muse.generation import GenerationResult, checked
from pixellm.muse.plan import GenerationPlan
from pixellm.muse.prompts import Prompt
from pixellm.muse.records import Provenance
from pixellm.muse.vlm.engine import reply_key
from pixellm.muse.vlm.reply import parse_reply
from pixellm.utils.openai_client import Completion

PASSED_ON = ("image_id", "key", "failure")  # columns


class PrepareRequests:
    """Map `image_id` to `key` and `messages` (JSON) of a request, or to a `failure` where the image can't be read."""

    def __init__(self, plan: GenerationPlan, index: Path, coordinator: Any) -> None:
        self._plan, self._coordinator = plan, coordinator
        self._selection = plan.selection(AnnotationIndex(index))
        self._prompt = Prompt(plan.prompt)

    def __call__(self, batch: Columns) -> Columns:
        import ray

        rows = []
        for image_id in map(int, batch["image_id"]):
            if not ray.get(self._coordinator.stopped.remote()):
                rows.append(self._row(image_id))
        columns = ("image_id", "key", "messages", "failure")
        return {name: np.array([row[i] for row in rows], dtype=object) for i, name in enumerate(columns)}

    def _row(self, image_id: int) -> tuple[int, str, str, str]:
        image = self._selection.candidate(image_id).annotated
        assert image is not None, "the coordinator left out all others"
        try:
            messages = self._prompt.messages(image, self._plan.images, self._plan.questions)
        except ValueError as error:
            return image_id, "", "[]", str(error)
        return image_id, reply_key(self._prompt, image, messages, 1), json.dumps(messages), ""


class StoreReplies:
    """Map `generated_text` to records at the coordinator; pass on `failure`."""

    def __init__(self, plan: GenerationPlan, index: Path, coordinator: Any) -> None:
        assert plan.server is not None, "it has the model's name"
        self._coordinator = coordinator
        annotations = AnnotationIndex(index)
        self._selection, self._checks = plan.selection(annotations), plan.checks(annotations)
        self._provenance = Provenance("server", plan.server.model, Prompt(plan.prompt).name, synthetic=False)

    def __call__(self, batch: Columns) -> Columns:
        import ray

        rows = zip(
            *(batch["image_id"], batch["key"], batch["failure"], batch["generated_text"]),
            *(batch["num_input_tokens"], batch["num_generated_tokens"]),
            strict=True,
        )
        for image_id, key, failure, text, tokens_in, tokens_out in rows:
            if failure:
                continue
            candidate = self._selection.candidate(int(image_id))
            assert candidate.annotated is not None, "the coordinator left out all others"
            reply = Completion(str(text), int(tokens_in), int(tokens_out), 0.0)
            ray.get(self._coordinator.save_reply.remote(str(key), reply))
            parsed = parse_reply(reply.text, candidate.annotated, self._provenance)
            good, rejects = checked(GenerationResult(parsed.records, parsed.rejects), self._checks)
            left_out = dict(candidate.left_out)
            ray.get(self._coordinator.finish.remote(int(image_id), good, rejects, None, left_out))
        return {"image_id": batch["image_id"], "failure": batch["failure"]}


def processor(plan: GenerationPlan, workers: int) -> Any:
    """Return a function of datasets: from `messages` to `generated_text` and its tokens, on `workers` GPUs.

    Raises:
        ValueError: vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise ValueError(
            "expected vLLM for --backend vllm, got none. Install it here and on the machines with GPUs: "
            "pip install 'ray[llm]'."
        )
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    assert plan.server is not None, "it has the model's name"
    server, schema = plan.server, Prompt(plan.prompt).schema
    config = vLLMEngineProcessorConfig(
        model_source=server.model,
        concurrency=workers,
        batch_size=server.in_flight,
        prepare_multimodal_stage={"enabled": Prompt(plan.prompt).with_image},
    )
    sampling = {"max_tokens": server.max_output, "temperature": server.temperature}

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        request = {"sampling_params": sampling | {"structured_outputs": {"json": schema}}}
        return {name: row[name] for name in PASSED_ON} | request | {"messages": json.loads(row["messages"])}

    def postprocess(row: dict[str, Any]) -> dict[str, Any]:
        return {name: row[name] for name in (*PASSED_ON, "generated_text", "num_input_tokens", "num_generated_tokens")}

    return build_processor(config, preprocess=preprocess, postprocess=postprocess)
