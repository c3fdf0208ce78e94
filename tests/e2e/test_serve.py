"""`pixellm serve` as a process, asked by the stock `openai` client and by plain HTTP."""

import io
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pixellm.segmenter import load
from tests.support import hostile, serving, tiny
from tests.support.serving import KEY, MODEL, OTHER_KEY, QUESTIONS, TOKENS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return serving.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model):
    with serving.serving(
        model, "--max-new-tokens", "50000", "--max-prompt-tokens", "300", keys=(KEY, OTHER_KEY)
    ) as running:
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def content(question, data=None):
    url = serving.data_uri(data or serving.png())
    return [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]


# --- the stock client ---


def test_the_openai_client(client, model):
    (card,) = client.models.list().data
    assert card.id == client.models.retrieve(MODEL).id == MODEL
    messages = [{"role": "user", "content": content(QUESTIONS[0])}]
    completion = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=TOKENS)
    message = completion.choices[0].message
    expected = serving.offline(model, QUESTIONS[0])
    assert (message.content, message.targets) == (expected["text"], expected["targets"])
    assert message.targets
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens >= TOKENS
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_masks_are_what_pycocotools_reads(client, model):
    messages = [{"role": "user", "content": content(QUESTIONS[0])}]
    targets = (
        client.chat.completions.create(model=MODEL, messages=messages, max_tokens=TOKENS).choices[0].message.targets
    )
    predictor = load(model)
    predictor.set_image(tiny.picture(60, 40))
    masks = [target.mask for target in predictor.ask(QUESTIONS[0], max_new_tokens=TOKENS).targets]
    assert any(0 < mask.mean() < 1 for mask in masks)
    for target, mask in zip(targets, masks, strict=True):
        assert np.array_equal(coco_mask.decode(target["segmentation"]).astype(bool), mask)


def test_streaming(client, model):
    """Text in pieces; each target right behind the text that it belongs to."""
    messages = [{"role": "user", "content": content(QUESTIONS[0])}]
    stream = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=TOKENS, stream=True, stream_options={"include_usage": True}
    )
    text, targets, ends, pieces = "", [], [], 0
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            pieces += bool(choice.delta.content)
            for target in getattr(choice.delta, "targets", None) or []:
                start, end = target["span"]
                assert text[start:end] == target["phrase"]
                assert end == len(text)
                targets.append(target)
            ends += [choice.finish_reason] if choice.finish_reason else []
    expected = serving.offline(model, QUESTIONS[0])
    assert (text, targets, ends) == (expected["text"], expected["targets"], ["length"])
    assert pieces > 2
    assert chunk.usage.completion_tokens >= TOKENS


def test_a_minimum_score(client, server, model):
    """Targets below are missing, streamed or not; the text is there, and spans fit it."""
    whole = serving.offline(model, QUESTIONS[0])
    least = float(np.median([target["score"] for target in whole["targets"]]))
    kept = [target for target in whole["targets"] if target["score"] >= least]
    assert 0 < len(kept) < len(whole["targets"])
    messages = [{"role": "user", "content": content(QUESTIONS[0])}]
    options = {"model": MODEL, "messages": messages, "max_tokens": TOKENS, "extra_body": {"min_score": least}}
    message = client.chat.completions.create(**options).choices[0].message
    assert (message.content, message.targets) == (whole["text"], kept)
    deltas = [
        choice.delta for chunk in client.chat.completions.create(**options, stream=True) for choice in chunk.choices
    ]
    assert "".join(delta.content or "" for delta in deltas) == whole["text"]
    assert [target for delta in deltas for target in getattr(delta, "targets", None) or []] == kept
    form = {"question": QUESTIONS[0], "max_tokens": str(TOKENS), "min_score": str(least)}
    files = {"image": ("a.png", serving.png(), "image/png")}
    assert server.http.post("/v1/segment", data=form, files=files).json() == {**whole, "targets": kept}
    for wrong in (-0.1, 1.5, "half"):
        refused = server.http.post("/v1/segment", data={**form, "min_score": str(wrong)}, files=files)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "min_score")


def test_a_follow_up(client, model):
    """The message that came back goes into the next request as it is."""
    messages = [{"role": "user", "content": content(QUESTIONS[0])}]
    first = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=TOKENS).choices[0].message
    messages += [first, {"role": "user", "content": "table"}]
    second = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=TOKENS).choices[0].message
    predictor = load(model)
    predictor.set_image(tiny.picture(60, 40))
    said = predictor.ask(QUESTIONS[0], max_new_tokens=TOKENS)
    expected = predictor.ask("table", [said], max_new_tokens=TOKENS).to_json()
    assert (second.content, second.targets) == (expected["text"], expected["targets"])


def test_draws(client, model):
    def ask(**sampling):
        messages = [{"role": "user", "content": content("table")}]
        choice = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=TOKENS, **sampling).choices[
            0
        ]
        return choice.message.content

    expected = serving.offline(model, "table", temperature=1.5, top_p=0.9, seed=7)["text"]
    assert ask(temperature=1.5, top_p=0.9, seed=7) == expected
    assert len({ask(temperature=1.5) for _ in range(4)}) > 1  # without a seed, another each time


def test_errors_are_those_of_the_client(client, server):
    messages = [{"role": "user", "content": content("table")}]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=messages)
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(model=MODEL, messages=messages, tools=[{"type": "function"}])
    with pytest.raises(openai.BadRequestError, match="expected an image"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content("a", b"no image")}])
    bad, long = ([{"role": "user", "content": content(*what)}] for what in (("a", b"no image"), ("dog " * 499,)))
    with pytest.raises(openai.BadRequestError, match="expected an image"):
        client.chat.completions.create(model=MODEL, messages=bad, stream=True)
    with pytest.raises(openai.BadRequestError, match="tokens of image"):  # what only the model's process can say
        client.chat.completions.create(model=MODEL, messages=long, stream=True)
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


# --- plain HTTP ---


def test_segment_in_all_formats(server, model, tmp_path):
    data = serving.png()
    expected = serving.offline(model, "table")
    body = {"image": serving.data_uri(data), "question": "table", "max_tokens": TOKENS}
    assert server.http.post("/v1/segment", json=body).json() == expected

    form = {"question": "table", "max_tokens": str(TOKENS)}
    files = {"image": ("a.png", data, "image/png")}
    assert server.http.post("/v1/segment", data=form, files=files).json() == expected

    drawn = server.http.post("/v1/segment", json=body, headers={"Accept": "image/png"})
    predictor = load(model)
    predictor.set_image(tiny.picture(60, 40))
    overlay = predictor.ask("table", max_new_tokens=TOKENS).overlay()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(drawn.content))), np.asarray(overlay))

    coco = server.http.post("/v1/segment", json=body, headers={"Accept": "application/vnd.coco+json"})
    file = tmp_path / "coco.json"
    file.write_bytes(coco.content)
    read = COCO(str(file))
    areas = [int(read.annToMask(annotation).sum()) for annotation in read.loadAnns(read.getAnnIds())]
    assert areas == [target["area"] for target in expected["targets"]]
    phrases = [annotation["phrase"] for annotation in read.loadAnns(read.getAnnIds())]
    assert phrases == [target["phrase"] for target in expected["targets"]]


def test_a_chat_with_an_upload(server, model):
    request = {"model": MODEL, "messages": [{"role": "user", "content": "table"}], "max_tokens": TOKENS}
    files = {"image": ("a.png", serving.png(), "image/png")}
    answered = server.http.post("/v1/chat/completions", data={"request": json.dumps(request)}, files=files).json()
    expected = serving.offline(model, "table")
    assert answered["choices"][0]["message"]["targets"] == expected["targets"]
    both = {"request": json.dumps(serving.chat("table"))}
    assert server.http.post("/v1/chat/completions", data=both, files=files).status_code == 400


def test_the_description_and_its_examples(server):
    described = httpx2.get(f"{server.url}/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/models", "/v1/segment", "/healthz", "/readyz", "/metrics"} <= set(
        described["paths"]
    )
    content = described["paths"]["/v1/segment"]["post"]["requestBody"]["content"]["application/json"]
    example = content["examples"]["example"]["value"]
    answered = server.http.post("/v1/segment", json={**example, "max_tokens": 8})
    assert answered.status_code == 200
    assert answered.json()["question"] == example["question"]


def test_many_at_once_are_answered_as_if_alone(server, model):
    """Good and bad ones mixed; every good one is the predictor's own answer."""
    asked = [(QUESTIONS[i % 4], i % 3, 8 + i % 5) for i in range(12)]
    expected = {one: serving.offline(model, one[0], one[1], max_new_tokens=one[2]) for one in asked}

    def ask(number):
        one = asked[number % len(asked)]
        if number % 5 == 4:
            return server.http.post(
                "/v1/segment", json={"image": "data:image/png;base64,AAAA", "question": "a"}
            ).status_code
        image = serving.data_uri(serving.png(seed=one[1]))
        response = server.http.post("/v1/segment", json={"image": image, "question": one[0], "max_tokens": one[2]})
        return response.json() == expected[one]

    steps = server.metric("pixellm_batch_rows_count")
    rows = server.metric("pixellm_batch_rows_sum")
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(60)))
    assert found == [400 if number % 5 == 4 else True for number in range(60)]
    together = (server.metric("pixellm_batch_rows_sum") - rows) / (server.metric("pixellm_batch_rows_count") - steps)
    assert together > 1.5


def test_one_tenants_images_are_not_known_to_another(server):
    body = {"image": serving.data_uri(serving.png(seed=99)), "question": "table", "max_tokens": 2}

    def misses(key):
        before = server.metric('pixellm_images_total{cache="miss"}')
        answered = server.http.post("/v1/segment", json=body, headers={"Authorization": f"Bearer {key}"})
        assert answered.status_code == 200
        return server.metric('pixellm_images_total{cache="miss"}') - before

    assert [misses(key) for key in (KEY, KEY, OTHER_KEY, OTHER_KEY)] == [1, 0, 1, 0]


def test_who_needs_a_key(server):
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert httpx2.get(server.url + path).status_code == 200
    for path in ("/v1/models", "/metrics", "/nothing"):
        refused = httpx2.get(server.url + path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["error"]["code"] == "invalid_api_key"


# --- those who go away, and the end ---


def endless(server, stream):
    """A question whose answer takes many seconds."""
    return json.dumps(serving.chat("dog", stream=stream, max_tokens=50000)).encode()


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_hangs_up_is_not_answered_further(server, stream):
    cancelled = server.metric('pixellm_answers_total{outcome="cancelled"}')
    body = endless(server, stream)
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", f"Authorization: Bearer {KEY}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        server.wait_for(lambda: server.metric("pixellm_running_questions") == 1)
        if stream:
            assert b"200 OK" in connection.recv(200)
    server.wait_for(lambda: server.metric('pixellm_answers_total{outcome="cancelled"}') == cancelled + 1, 5)
    assert server.metric("pixellm_running_questions") == server.metric("pixellm_queue_questions") == 0


def test_a_worker_that_is_killed_is_replaced(server, model):
    worker = server.worker()
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(server.http.post, "/v1/chat/completions", content=endless(server, False), headers=JSON)
        streamed = pool.submit(server.http.post, "/v1/chat/completions", content=endless(server, True), headers=JSON)
        server.wait_for(lambda: server.metric("pixellm_running_questions") == 2)
        time.sleep(0.3)
        os.kill(worker, signal.SIGKILL)
        assert whole.result().status_code == 503
        assert whole.result().headers["retry-after"]
        assert whole.result().json()["error"]["code"] == "worker_lost"
        *_, error, _end = streamed.result().text.strip().split("\n\n")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "worker_lost"
    assert server.http.get("/readyz").status_code == 503
    assert server.http.get("/healthz").status_code == 200
    # What comes meanwhile waits for the new one.
    body = {"image": serving.data_uri(serving.png()), "question": "table", "max_tokens": TOKENS}
    assert server.http.post("/v1/segment", json=body).json() == serving.offline(model, "table")
    assert server.worker() != worker
    assert server.metric("pixellm_worker_restarts_total") == 1


JSON = {"Content-Type": "application/json"}


def test_slow_images_leave_room_for_others(server):
    """Each of the three takes many seconds to open; those of clients that leave are given up."""
    form = {"question": "table", "max_tokens": 1}
    request = server.http.build_request("POST", "/v1/segment", files={"image": hostile.slow()}, data=form)
    body = request.read()
    head = f"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {OTHER_KEY}\r\n"
    head += f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    lost = 'pixellm_decoders_lost_total{reason="cancelled"}'
    before = server.metric(lost)
    with ExitStack() as connections:
        for _ in range(3):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(head.encode() + body)
        server.wait_for(lambda: server.metric("pixellm_in_flight_requests") == 4)
        start = time.monotonic()
        assert server.http.post("/v1/segment", files={"image": serving.png()}, data=form).status_code == 200
        assert time.monotonic() - start < 3
    server.wait_for(lambda: server.metric(lost) == before + 2, 5)  # the third waited for one of them
    server.wait_for(lambda: server.metric("pixellm_in_flight_requests") == 1, 5)


def test_the_end_lets_answers_finish(model):
    with serving.serving(model, "--max-new-tokens", "1000", "--batch-size", "1") as server:
        worker = server.worker()
        with ThreadPoolExecutor(3) as pool:
            chat = json.dumps(serving.chat("table", stream=True, max_tokens=300)).encode()
            streamed = pool.submit(server.http.post, "/v1/chat/completions", content=chat, headers=JSON)
            server.wait_for(lambda: server.metric("pixellm_running_questions") == 1)
            body = {"image": serving.data_uri(serving.png()), "question": "table", "max_tokens": 300}
            asked = [pool.submit(server.http.post, "/v1/segment", json=body) for _ in range(2)]
            server.wait_for(lambda: server.metric("pixellm_running_questions") == 3)
            assert server.end() == 0
            expected = serving.offline(model, "table", max_new_tokens=300)
            assert streamed.result().text.endswith("data: [DONE]\n\n")
            assert "error" not in streamed.result().text
            assert [one.result().json() for one in asked] == [expected] * 2
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


@pytest.mark.slow
def test_the_end_does_not_wait_for_ever(model):
    options = ("--max-new-tokens", "100000", "--drain-timeout", "1")
    with serving.serving(model, *options) as server, ThreadPoolExecutor(2) as pool:
        bodies = (
            json.dumps(serving.chat("dog", max_tokens=100000, stream=stream)).encode() for stream in (False, True)
        )
        asked = [pool.submit(server.http.post, "/v1/chat/completions", content=body, headers=JSON) for body in bodies]
        server.wait_for(lambda: server.metric("pixellm_running_questions") == 2)
        assert server.end() == 0
        whole, streamed = (one.result() for one in asked)
        assert whole.status_code == 503
        *_, error, last = streamed.text.strip().split("\n\n")
        assert "shutting down" in json.loads(error.removeprefix("data: "))["error"]["message"]
        assert last == "data: [DONE]"


def test_a_worker_does_not_outlive_its_server(model):
    with serving.serving(model) as server:
        worker = server.worker()
        server.process.kill()
        server.process.wait()
        for _ in range(100):
            if not alive(worker):
                return
            time.sleep(0.1)
        pytest.fail("the worker is still there")


def alive(process: int) -> bool:
    """Whether a process that is not our child is still running."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
