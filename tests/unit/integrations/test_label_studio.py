"""Label Studio's ML backend: run lengths, labeling configurations, questions, and the wire protocol."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from pixellm.integrations.label_studio import LabelConfig, LabelStudioBackend, TaskImages, create_backend, encode_brush
from tests.support.colours import ColourServer, flag, flag_file, mask_of

CONFIG = """
<View>
  <Image name="image" value="$photo"/>
  <TextArea name="prompt" toName="image" smart="true"/>
  <BrushLabels name="tag" toName="image"><Label value="Red"/><Label value="Green"/></BrushLabels>
</View>
"""


def decoded(rle: list[int]) -> np.ndarray:
    """@thi.ng/rle-pack's decoder, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    number, word = read(32), read(5) + 1
    sizes, values = [read(4) + 1 for _ in range(4)], []
    while len(values) < number:
        is_run, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(values) == number
    assert len(bits) - at < 8
    return np.array(values, dtype=np.uint8)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_run_lengths_of_a_mask(mask):
    assert np.array_equal(decoded(encode_brush(mask)).reshape(*mask.shape, 4), np.stack([mask * 255] * 4, -1))


@pytest.mark.parametrize("value", [False, True])
def test_long_runs_are_split(value):
    mask = np.full((210, 100), value)  # 84,000 values: more than a run of 16 bits
    mask[0, 0] = not value
    assert np.array_equal(decoded(encode_brush(mask))[3::4] > 0, mask.ravel())


def test_the_sdk_reads_them():
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    mask = mask_of(flag(), "green")
    assert np.array_equal(brush.decode_rle(encode_brush(mask)).reshape(30, 40, 4)[..., 3] > 0, mask)


def test_the_sdk_accepts_predictions():
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed")
    (prediction,) = ask([task()]).json()["results"]
    assert len(prediction["result"]) == 2
    assert sdk.LabelInterface(CONFIG).validate_prediction(prediction, return_errors=True) == []


def test_configuration():
    config = LabelConfig.parse(CONFIG)
    assert config == LabelConfig("tag", "image", "photo", ("Red", "Green"), ("prompt",))


@pytest.mark.parametrize(
    "xml", ["", "<View>", "<View><Image name='i' value='$i'/></View>", "<View><BrushLabels/></View>"]
)
def test_a_configuration_without_brush_is_an_error(xml):
    with pytest.raises(ValueError, match="expected a labeling configuration"):
        LabelConfig.parse(xml)


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["red cup"], ("Cup", "Red cup"), ["Red cup"]),
        (["red cup"], ("Cup", "Spoon"), ["Cup"]),
        (["cupboard"], ("Cup", "Spoon"), []),
        (["cupboard"], ("Thing",), ["Thing"]),
        (["big tea cup"], ("tea", "tea cup"), ["tea cup"]),
        (["mug", "cup"], ("Cup", "Mug"), ["Mug"]),
        (["", "cup"], ("Cup", "Mug"), ["Cup"]),
    ],
)
def test_label_of_a_phrase(names, labels, expected):
    assert LabelConfig("tag", "image", "photo", labels, ()).label_of(*names) == expected


def task(**data) -> dict:
    uri = "data:image/png;base64," + base64.b64encode(flag_file()).decode()
    return {"id": 7, "data": {"photo": uri, **data}}


def ask(tasks, context=None, password="", auth=None, images=None):
    backend = LabelStudioBackend(ColourServer(), images or TaskImages("http://127.0.0.1:1"))
    client = TestClient(create_backend(backend, password))
    body = {"tasks": tasks, "label_config": CONFIG, "project": "1.2", "params": {"context": context, "login": None}}
    return client.post("/predict", json=body, auth=auth)


def labels(prediction):
    return [region["value"]["brushlabels"] for region in prediction["result"]]


def click(x, y, positive=True, label="Green", **fields):
    """A smart keypoint, in percent of the 40 × 30 pixels."""
    value = {"x": 100 * x / 40, "y": 100 * y / 30, "width": 1, "keypointlabels": [label]}
    row = {"type": "keypointlabels", "to_name": "image", "value": value, "is_positive": positive}
    return {**row, "original_width": 40, "original_height": 30, **fields}


def box(x, y, width, height, label="Red"):
    value = {"x": 100 * x / 40, "y": 100 * y / 30, "width": 100 * width / 40, "height": 100 * height / 30}
    return click(0, 0, type="rectanglelabels", value={**value, "rotation": 0, "rectanglelabels": [label]})


def brush(response):
    (region,) = response.json()["results"][0]["result"]
    return region["value"]["brushlabels"], decoded(region["value"]["rle"])[3::4].reshape(30, 40) > 0


def test_clicks_give_one_mask_with_the_label_of_the_last():
    red, green = mask_of(flag(), "red"), mask_of(flag(), "green")
    names, mask = brush(ask([task()], {"result": [click(10.5, 20.5, label="Red")]}))
    assert (names, np.array_equal(mask, green)) == (["Red"], True)
    clicks = [click(10.5, 20.5), click(1.5, 1.5), click(11.5, 20.5, positive=False)]
    names, mask = brush(ask([task()], {"result": clicks}))
    assert (names, np.array_equal(mask, red)) == (["Green"], True)
    typed = {"type": "textarea", "from_name": "prompt", "value": {"text": ["blue"]}}
    names, mask = brush(ask([task()], {"result": [typed, click(1.5, 1.5), box(0, 0, 10, 20)]}))
    red[:, 10:] = False
    assert (names, np.array_equal(mask, red)) == (["Red"], True)
    (prediction,) = ask([task()], {"result": [click(1.5, 1.5, positive=False)]}).json()["results"]
    assert prediction["result"] == []


def test_clicks_without_a_place_are_an_error():
    response = ask([task()], {"result": [{"type": "keypointlabels", "to_name": "image", "value": {"x": 1}}]})
    assert response.status_code == 400
    assert "expected regions with their places" in response.json()["detail"]
    elsewhere = click(1, 1, to_name="other")
    assert len(ask([task()], {"result": [elsewhere]}).json()["results"][0]["result"]) == 2  # as if nothing was marked


@pytest.mark.parametrize(
    ("tasks", "context", "status", "message"),
    [
        ([task()], "text", 422, "context"),
        ([task()], {"result": "text"}, 400, "a list of regions"),
        ([task()], {"result": [1]}, 400, "a list of regions"),
        ([{"id": 1, "data": "photo"}], None, 400, "an image in the field photo"),
        ([task(photo=None)], None, 400, "an image in the field photo"),
    ],
)
def test_malformed_requests(tasks, context, status, message):
    response = ask(tasks, context)
    assert (response.status_code, message in str(response.json()["detail"])) == (status, True)


def test_every_label_is_a_question_where_nothing_is_asked():
    (prediction,) = ask([task()]).json()["results"]
    assert labels(prediction) == [["Red"], ["Green"]]
    assert (prediction["score"], prediction["model_version"]) == (0.75, "colours")


def test_regions():
    (prediction,) = ask([task(question="red")]).json()["results"]
    (region,) = prediction["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "image", "brushlabels")
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (40, 30, 0)
    assert region["meta"] == {"text": ["the red"]}
    value = region["value"]
    assert value["format"] == "rle"
    assert np.array_equal(decoded(value["rle"])[3::4] > 0, mask_of(flag(), "red").ravel())


def test_a_typed_prompt_comes_first():
    row = {"type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": ["green"]}}
    (prediction,) = ask([task(question="red")], {"result": [row]}).json()["results"]
    assert labels(prediction) == [["Green"]]
    other = row | {"from_name": "notes"}
    (prediction,) = ask([task(question="red")], {"result": [other]}).json()["results"]
    assert labels(prediction) == [["Red"]]


def test_what_is_not_there_is_a_prediction_without_regions():
    (prediction,) = ask([task(question="blue")]).json()["results"]
    assert (prediction["result"], prediction["score"]) == ([], 0)


def test_a_single_bad_task_is_an_error_one_of_several_is_left_out():
    bad = {"id": 8, "data": {"image": "x"}}
    response = ask([bad])
    assert response.status_code == 400
    assert "expected an image in the field photo" in response.json()["detail"]
    first, second = ask([bad, task(question="red")]).json()["results"]
    assert first == []
    assert labels(second) == [["Red"]]


def test_password():
    assert ask([task()], password="sesame").status_code == 401
    assert ask([task()], password="sesame", auth=("anyone", "wrong")).status_code == 401
    assert ask([task()], password="sesame", auth=("anyone", "sesame")).status_code == 200


def test_other_endpoints():
    client = TestClient(create_backend(LabelStudioBackend(ColourServer(), TaskImages("http://127.0.0.1:1"))))
    assert client.get("/health").json()["status"] == "UP"
    assert client.post("/setup", json={"project": "1.2", "schema": CONFIG}).json() == {"model_version": "colours"}
    assert client.get("/versions").json() == {"versions": ["colours"]}
    assert client.post("/webhook", json={"action": "TASKS_CREATED"}).json() == {"status": "ignored"}


@pytest.fixture
def label_studio():
    """An image behind a token of either kind, and a redirect to another host; yields address and requests."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            if self.path == "/elsewhere.png":
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{server.server_port}/flag.png")
                self.end_headers()
                return
            self.send_response(200 if self.path.endswith("flag.png") else 404)
            self.end_headers()
            self.wfile.write(flag_file())

        def do_POST(self):
            refresh = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["refresh"]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"access": f"short-{refresh[:3]}"}).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()


def test_images_of_label_studio(label_studio):
    url, seen = label_studio
    assert TaskImages(url, "legacy").fetch("/data/upload/1/flag.png") == flag_file()
    assert TaskImages(url + "/", "abc.def.ghi").fetch(f"{url}/flag.png") == flag_file()
    assert [key for _, key in seen] == ["Token legacy", "Bearer short-abc"]
    with pytest.raises(ValueError, match=r"404.*LABEL_STUDIO_API_KEY"):
        TaskImages(url).fetch("/nothing.jpg")


def test_a_token_is_not_sent_elsewhere(label_studio):
    url, seen = label_studio
    assert TaskImages(url, "legacy").fetch("/elsewhere.png") == flag_file()
    other = url.replace("127.0.0.1", "localhost")
    assert TaskImages(url, "legacy", [other.removeprefix("http://")]).fetch(f"{other}/flag.png") == flag_file()
    assert seen == [("/elsewhere.png", "Token legacy"), ("/flag.png", None), ("/flag.png", None)]


@pytest.mark.parametrize("place", ["http://10.0.0.1/x.png", "file:///etc/passwd", "s3://bucket/x.png", "//10.0.0.1/x"])
def test_other_hosts_are_refused(place):
    with pytest.raises(ValueError, match="expected an image of 127"):
        TaskImages("http://127.0.0.1:8080", "token").fetch(place)


def test_a_broken_data_uri():
    with pytest.raises(ValueError, match="base64"):
        TaskImages("http://127.0.0.1:8080").fetch("data:image/png;base64,%%%")
