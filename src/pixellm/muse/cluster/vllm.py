"""Replies by vLLM on the cluster's own GPUs, in the place of a server: `ray.data.llm`.

photographs → Prepare (messages) → processor (vLLM) → Conclude (reply → records, at the keeper)
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixellm.muse.cluster.worker import Batch
from pixellm.muse.generate import sifted
from pixellm.muse.journal import Call
from pixellm.muse.plan import Plan
from pixellm.muse.prompts import Prompt
from pixellm.muse.records import Provenance
from pixellm.muse.scene import Made
from pixellm.muse.server.engine import call_key
from pixellm.muse.server.reply import read_reply
from pixellm.muse.source import Source

if TYPE_CHECKING:
    pass

KEPT = ("image_id", "key", "failure")  # columns that a processor hands on


class Prepare:
    """`image_id` → `key` and `messages` (JSON) of a request; `failure` where the photograph can't be read."""

    def __init__(self, plan: Plan, index: Path, keeper: Any) -> None:
        self._plan, self._keeper = plan, keeper
        self._selection = plan.selection(Source(index))
        self._prompt = Prompt(plan.prompt)

    def __call__(self, batch: Batch) -> Batch:
        import ray

        rows = []
        for image_id in map(int, batch["image_id"]):
            if not ray.get(self._keeper.stopped.remote()):
                rows.append(self._row(image_id))
        columns = ("image_id", "key", "messages", "failure")
        return {name: np.array([row[i] for row in rows], dtype=object) for i, name in enumerate(columns)}

    def _row(self, image_id: int) -> tuple[int, str, str, str]:
        scene = self._selection.scene(image_id).scene
        assert scene is not None, "the keeper gives scenes only"
        try:
            messages = self._prompt.messages(scene, self._plan.images, self._plan.questions)
        except ValueError as error:
            return image_id, "", "[]", str(error)
        return image_id, call_key(self._prompt, scene, messages, 1), json.dumps(messages), ""


class Conclude:
    """`generated_text` → records at the keeper; `failure` as it was."""

    def __init__(self, plan: Plan, index: Path, keeper: Any) -> None:
        assert plan.server is not None, "it has the model's name"
        self._keeper = keeper
        source = Source(index)
        self._selection, self._checks = plan.selection(source), plan.checks(source)
        self._made = Provenance("server", plan.server.model, Prompt(plan.prompt).name, synthetic=False)

    def __call__(self, batch: Batch) -> Batch:
        import ray

        rows = zip(
            *(batch["image_id"], batch["key"], batch["failure"], batch["generated_text"]),
            *(batch["num_input_tokens"], batch["num_generated_tokens"]),
            strict=True,
        )
        for image_id, key, failure, text, tokens_in, tokens_out in rows:
            if failure:
                continue
            chosen = self._selection.scene(int(image_id))
            assert chosen.scene is not None, "the keeper gives scenes only"
            call = Call(str(key), str(text), int(tokens_in), int(tokens_out), 0.0)
            ray.get(self._keeper.save_call.remote(call))
            found = read_reply(call.reply, chosen.scene, self._made)
            good, rejects = sifted(Made(found.records, found.rejects), self._checks)
            ray.get(self._keeper.finish.remote(int(image_id), good, rejects, None, dict(chosen.left_out)))
        return {"image_id": batch["image_id"], "failure": batch["failure"]}


def processor(plan: Plan, workers: int) -> "Any":
    """Dataset → Dataset: from `messages` to `generated_text` and its tokens, on `workers` GPUs.

    Raises:
        ValueError: vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise ValueError(
            "expected vLLM for --backend vllm, found none. Install it here and on the machines with GPUs: "
            "pip install 'ray[llm]'."
        )
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    assert plan.server is not None, "it has the model's name"
    server, schema = plan.server, Prompt(plan.prompt).schema
    config = vLLMEngineProcessorConfig(
        model_source=server.model,
        concurrency=workers,
        batch_size=server.in_flight,
        prepare_multimodal_stage={"enabled": Prompt(plan.prompt).sees},
    )
    sampling = {"max_tokens": server.max_output, "temperature": server.temperature}

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        asked = {"sampling_params": sampling | {"structured_outputs": {"json": schema}}}
        return {name: row[name] for name in KEPT} | asked | {"messages": json.loads(row["messages"])}

    def postprocess(row: dict[str, Any]) -> dict[str, Any]:
        return {name: row[name] for name in (*KEPT, "generated_text", "num_input_tokens", "num_generated_tokens")}

    return build_processor(config, preprocess=preprocess, postprocess=postprocess)
