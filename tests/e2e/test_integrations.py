"""A server asked as a Segmenter, by X-AnyLabeling's messages, by Label Studio's backend and by an MCP client."""

import base64
import io
import os
import sys

import anyio
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pixellm.export.outlines import filled
from pixellm.imaging import masks
from pixellm.integrations.label_studio import LabelStudioBackend, TaskImages, create_backend
from pixellm.integrations.remote import RemoteSegmenter
from pixellm.types import Target
from tests.support import serving, tiny
from tests.support.serving import KEY, MODEL, TOKENS
from tests.unit.integrations.test_label_studio import decoded

PHRASE = "dog"
QUESTION = "Segment the dog."


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = serving.write_model(tmp_path_factory.mktemp("model"))
    with serving.serving(model, "--x-anylabeling", "--max-new-tokens", str(TOKENS), keys=(KEY,)) as running:
        yield running


@pytest.fixture(scope="module")
def answer(server):
    """What the server answers to `QUESTION`, with a mask that is not empty."""
    files = {"image": ("a.png", serving.png(), "image/png")}
    answer = server.http.post("/v1/segment", files=files, data={"question": QUESTION}).json()
    assert any(target["area"] for target in answer["targets"])
    return answer


def test_a_server_as_a_segmenter(server, answer):
    segmenter = RemoteSegmenter(server.url, KEY)
    assert segmenter.model_name() == MODEL
    segmenter.set_image(tiny.picture(60, 40))
    given = segmenter.ask(QUESTION)
    assert given.to_json() == answer  # which tests/e2e/test_serve.py compares with a model that is loaded here
    assert given.overlay().size == (60, 40)
    with pytest.raises(ValueError, match="401"):
        RemoteSegmenter(server.url, "a wrong key").ask_about_file(serving.png(), "q")


def test_a_model_without_prompts_says_so(server):
    assert server.http.get(f"/v1/models/{MODEL}").json()["takes_prompts"] is False
    response = server.http.post("/v1/refine", json={"image": serving.data_uri(serving.png()), "points": [[1, 1, 1]]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "prompts_not_supported")
    segmenter = RemoteSegmenter(server.url, KEY)
    assert not segmenter.takes_prompts
    segmenter.set_image(tiny.picture(60, 40))
    with pytest.raises(ValueError, match="400: expected a model that was trained with visual prompts"):
        segmenter.refine(Target.of_mask("", (0, 0), np.ones((40, 60), dtype=bool)), points=[(1, 1, 1)])


def predict(server, key=KEY, model=MODEL, **params):
    """What X-AnyLabeling 4.2.1 sends."""
    body = {"model": model, "image": serving.data_uri(serving.png()), "params": {"iou_threshold": 0.0, **params}}
    return server.http.post("/x-anylabeling/v1/predict", json=body, headers={"Token": key, "Authorization": ""})


def test_x_anylabeling_shows_the_model(server):
    response = server.http.get("/x-anylabeling/v1/models", headers={"Token": KEY, "Authorization": ""}).json()
    card = response["data"][MODEL]
    assert response["success"] is True
    assert card["batch_processing_mode"] == "text_prompt"
    assert {"edit_text", "button_send"} <= {widget["name"] for widget in card["widgets"]}


def test_x_anylabeling_gets_the_masks_as_polygons(server, answer):
    data = predict(server, text_prompt=PHRASE, epsilon_factor=0.0).json()["data"]
    rings = iter(data["shapes"])
    for target in (target for target in answer["targets"] if target["area"]):
        mask = masks.decode(target["segmentation"], 40, 60)
        parts, groups = [], set()
        while not np.array_equal(filled(parts, 40, 60), mask):  # the shapes are in the order of the targets
            shape = next(rings)
            assert (shape["label"], shape["shape_type"]) == (PHRASE, "polygon")
            assert shape["score"] == pytest.approx(target.get("presence", target["score"]))
            parts.append(np.array(shape["points"]))
            groups.add(shape["group_id"])
        assert len(groups) == 1
        assert (groups == {None}) == (len(parts) == 1)
    assert next(rings, None) is None
    assert data["description"] == ""


def test_x_anylabeling_asks_a_question_or_several_phrases(server, answer):
    data = predict(server, text_prompt=QUESTION).json()["data"]
    assert data["description"] == answer["text"]
    both = predict(server, text_prompt="dog, cat").json()["data"]
    assert {shape["label"] for shape in both["shapes"]} == {"dog", "cat"}
    assert predict(server, text_prompt="dog", conf_threshold=1.0).json()["data"]["shapes"] == []


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"key": "wrong"}, 401, "API key"),
        ({"model": "other"}, 404, "expected the model"),
        ({"text_prompt": ""}, 400, "text prompt"),
        ({"text_prompt": ",".join("abcdefghijklmnopqrstuvwxyz")}, 400, "got 26"),
        ({"text_prompt": "dog", "marks": [{"type": "point", "data": [1, 2], "label": 1}]}, 400, "visual prompts"),
        ({"text_prompt": "d" * 3000}, 400, "2,000 characters"),
        ({"text_prompt": "dog", "epsilon_factor": -1}, 400, "epsilon_factor"),
    ],
)
def test_x_anylabeling_errors(server, fields, status, message):
    response = predict(server, **fields)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


def test_label_studio_gets_the_masks(server, answer):
    backend = LabelStudioBackend(RemoteSegmenter(server.url, KEY), TaskImages("http://127.0.0.1:1"))
    brush = '<BrushLabels name="b" toName="i"><Label value="Dog"/></BrushLabels>'
    config = f'<View><Image name="i" value="$image"/>{brush}</View>'
    body = {"tasks": [{"id": 1, "data": {"image": serving.data_uri(serving.png())}}], "label_config": config}
    client = TestClient(create_backend(backend))
    assert client.post("/setup", json={}).json() == {"model_version": MODEL}
    (prediction,) = client.post("/predict", json=body).json()["results"]
    targets = [target for target in answer["targets"] if target["area"]]
    assert len(prediction["result"]) == len(targets)
    for region, target in zip(prediction["result"], targets, strict=True):
        assert region["value"]["brushlabels"] == ["Dog"]
        mask = decoded(region["value"]["rle"])[3::4].reshape(40, 60) > 0
        assert np.array_equal(mask, masks.decode(target["segmentation"], 40, 60))


def test_an_mcp_client_over_standard_input_and_output(server, answer, tmp_path):
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    (tmp_path / "a.png").write_bytes(serving.png())
    python_path = os.pathsep.join(path for path in sys.path if path)
    process = StdioServerParameters(
        command=sys.executable,
        args=["-m", "pixellm", "mcp", "--server", server.url],
        env={"PIXELLM_API_KEY": KEY, "PYTHONPATH": python_path},
    )

    async def asked():
        async with Client(stdio_client(process)) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            return tools, await client.call_tool("ask", {"image": str(tmp_path / "a.png"), "question": QUESTION})

    tools, result = anyio.run(asked)
    assert tools == ["ask", "segment", "refine", "save_correction", "cut_out"]
    assert result.structured_content["text"] == answer["text"]
    assert [row["area"] for row in result.structured_content["targets"]] == [row["area"] for row in answer["targets"]]
    picture = Image.open(io.BytesIO(base64.b64decode(result.content[1].data)))
    assert picture.size == (60, 40)
