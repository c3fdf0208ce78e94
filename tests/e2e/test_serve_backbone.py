"""`pixellm serve` over HTTP with a model that `pixellm init` made of a vision-language model."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from pixellm.cli import app
from pixellm.segmenter import load
from tests.support import serving
from tests.support.serving import MODEL, QUESTIONS, TOKENS
from tests.support.tiny_vlms import let_it_write_masks, tiny_vlm

# One on every run; both-way images and windows, states that can't be cut, and tiles when there is time.
FAMILIES = ("qwen3_vl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "qwen3_5", "internvl")))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    for part in tiny_vlm(request.param):
        part.save_pretrained(folder / "base")
    command = ["init", folder / "base", folder / "made", "--decoder-dim", "32", "--grid", "8"]
    assert CliRunner().invoke(app, [*map(str, command)], catch_exceptions=False).exit_code == 0
    predictor = load(folder / "made")
    let_it_write_masks(predictor.model, predictor.processor)
    for part in (predictor.model, predictor.processor):
        part.save_pretrained(folder / "model")
    return folder / "model"


def streamed(client: openai.OpenAI, question: str) -> tuple[str, list[dict]]:
    """Text and targets of an answer; each target comes right behind its phrase."""
    body = serving.chat(question, stream=True)
    text, targets = "", []
    for chunk in client.chat.completions.create(**body):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for target in getattr(choice.delta, "targets", None) or []:
                assert target["span"][1] == len(text)
                targets.append(target)
    return text, targets


def test_several_questions_about_an_image_stream_as_the_predictor_answers(model):
    expected = {question: serving.offline(model, question) for question in QUESTIONS}
    assert any(answer["targets"] for answer in expected.values())
    with (
        serving.serving(model) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert [card.id for card in client.models.list().data] == [MODEL]
        answers = {QUESTIONS[0]: streamed(client, QUESTIONS[0])}
        with ThreadPoolExecutor(len(QUESTIONS)) as pool:
            rest = QUESTIONS[1:]
            answers |= zip(rest, pool.map(lambda question: streamed(client, question), rest), strict=True)
        assert server.metric('pixellm_images_total{cache="miss"}') == 1
        assert server.metric('pixellm_images_total{cache="hit"}') == len(rest)
        whole = client.chat.completions.create(**serving.chat(QUESTIONS[0]))
        assert whole.choices[0].message.content == expected[QUESTIONS[0]]["text"]
        assert whole.usage.completion_tokens >= TOKENS or whole.choices[0].finish_reason == "stop"
        assert server.end() == 0
    for question, answer in expected.items():
        text, targets = answers[question]
        assert text == answer["text"]
        assert [target["span"] for target in targets] == [target["span"] for target in answer["targets"]]
        for found, target in zip(targets, answer["targets"], strict=True):
            masks = [coco_mask.decode(one["segmentation"]) for one in (found, target)]
            assert np.mean(masks[0] != masks[1]) < 0.01
