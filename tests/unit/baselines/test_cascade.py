"""A vision-language model that names and points (a real server, whose answers are known), and a SAM 2 (random)."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor
from transformers.models.sam2.configuration_sam2 import (
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from pixellm.baselines.sam2 import Sam2Grounder
from pixellm.baselines.two_stage import NamedObject, TwoStage
from pixellm.baselines.vision_server import VisionServer, parse_objects
from pixellm.imaging import masks
from tests.support import tiny

THINGS = {"things": [{"name": "red apple", "point": [250, 500]}, {"name": "cat", "point": [900, 100]}]}


@pytest.fixture
def server():
    """Answers each request with the next of `replies` (a text, or a status), and keeps what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            running.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            reply = running.replies.pop(0)
            message = {"role": "assistant", "content": reply if isinstance(reply, str) else ""}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
            self.send_response(200 if isinstance(reply, str) else reply)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.replies, running.requests = [], []
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """A random SAM 2 of 128 pixels, in a directory."""
    torch.manual_seed(0)
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 2, 3, 2],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        global_attention_blocks=[4, 5],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32)
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=128, patch_size=16)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    directory = tmp_path_factory.mktemp("sam2")
    size = {"height": 128, "width": 128}
    processor = Sam2Processor(Sam2ImageProcessor(size=size, mask_size={"height": 32, "width": 32}), target_size=128)
    for part in (Sam2Model(config), processor):
        part.save_pretrained(directory)
    return directory


def test_named_pointed_at_and_segmented(server, sam) -> None:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    server.replies = [429, f"Here you are:\n```json\n{json.dumps(THINGS)}\n```"]
    system = TwoStage(VisionServer("some-vlm", url), Sam2Grounder.load(sam))
    photograph = tiny.picture(60, 40)
    system.set_image(photograph)
    answer = system.ask("What may I eat, {and} who watches?")
    assert answer.text == "The red apple and the cat."
    assert [target.phrase for target in answer.targets] == ["red apple", "cat"]
    assert all(target.mask.shape == (40, 60) for target in answer.targets)
    assert all(0 <= target.score <= 1 for target in answer.targets)
    assert len(server.requests) == 2  # the first was refused
    picture, text = server.requests[-1]["messages"][0]["content"]
    assert "What may I eat, {and} who watches?" in text["text"]
    sent = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
    assert sent.size == (60, 40)


def test_a_point_is_where_it_was_told(sam) -> None:
    """Each point, at the photograph's place, gives what SAM 2 itself gives there; several at once as one by one."""
    grounder = Sam2Grounder.load(sam)
    photograph = tiny.picture(60, 40)
    grounder.set_image(photograph)
    things = [NamedObject("a", (0.25, 0.5)), NamedObject("b", (0.9, 0.1))]
    together = grounder.ground(things)
    for thing, (rle, score) in zip(things, together, strict=True):
        ((alone, own),) = grounder.ground([thing])
        mask = masks.decode(rle, 40, 60)
        assert (mask == masks.decode(alone, 40, 60)).mean() > 0.999
        assert score == pytest.approx(own, abs=1e-5)
        points = [[[[thing.point[0] * 60, thing.point[1] * 40]]]]
        inputs = grounder.processor(images=photograph, input_points=points, input_labels=[[[1]]], return_tensors="pt")
        with torch.no_grad():
            output = grounder.model(**{key: inputs[key] for key in ("pixel_values", "input_points", "input_labels")})
        (offered,) = grounder.processor.post_process_masks(output.pred_masks, inputs["original_sizes"])
        expected = offered[0, int(output.iou_scores[0, 0].argmax())].numpy()
        assert (mask == expected).mean() > 0.999
    assert together[0].rle != together[1].rle
    with pytest.raises(ValueError, match="expected a point on each object"):
        grounder.ground([NamedObject("a")])


def test_replies() -> None:
    assert parse_objects('{"things": []}') == []
    assert parse_objects('<think>{"things": 1}</think> {"things": [{"name": " a ", "point": [0, 1000]}]}') == [
        NamedObject("a", (0.0, 1.0))
    ]
    for reply in (
        "",
        "I see an apple.",
        '{"things": [{"name": "a"}]}',
        '{"things": [{"name": "a", "point": [0, 2000]}]}',
    ):
        with pytest.raises(ValueError, match=r'expected JSON with "things"'):
            parse_objects(reply)


def test_a_server_that_is_not_there(monkeypatch) -> None:
    monkeypatch.setattr("pixellm.utils.openai_client.FIRST_WAIT", 0.001)
    namer = VisionServer("some-vlm", "http://127.0.0.1:9/v1")
    namer.set_image(tiny.picture(10, 10))
    with pytest.raises(ValueError, match=r"no answer in 7 tries: no connection to http://127.0.0.1:9/v1"):
        namer.names("What is here?")
