"""Requests that mean no good: each gets the right status, says nothing of our insides, and leaves the server well."""

import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx2
import pytest
from PIL import Image

from pixellm.serve import server as serve_server
from tests.support import hostile, serving
from tests.support.serving import MODEL, TOKENS

CHAT = "/v1/chat/completions"
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = serving.write_model(tmp_path_factory.mktemp("model"))
    options = ("--max-body-mb", "1", "--max-megapixels", "1", "--batch-size", "1", "--max-queue", "2")
    options += ("--max-in-flight", "6", "--max-new-tokens", "50000", "--request-timeout", "5", "--max-turns", "4")
    deadlines = ("--body-timeout", "1.5", "--header-timeout", "1.5", "--write-timeout", "1.5")
    with serving.serving(model, *options, *deadlines) as running:
        yield running


@pytest.fixture(autouse=True)
def well(server):
    """Whatever a test did, the server answers as before, with the same worker."""
    worker = server.worker()
    yield
    server.wait_for(lambda: server.metric("pixellm_running_questions") == 0)
    body = {"image": serving.data_uri(serving.png()), "question": "table", "max_tokens": TOKENS}
    assert server.http.post("/v1/segment", json=body).status_code == 200
    assert server.worker() == worker


def is_error(response, status, code=None):
    """OpenAI's form, one sentence, no trace."""
    assert response.status_code == status, response.text[:500]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert code is None or error["code"] == code
    assert error["message"]
    for inside in ("Traceback", 'File "', "site-packages", "/src/", "pydantic", "0x"):
        assert inside not in response.text
    return True


def raw(server, data: bytes, wait: float = 5) -> bytes:
    """What comes back for some bytes, until the connection ends or `wait` seconds have gone."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        found = b""
        with suppress(TimeoutError, ConnectionError):  # it may end before it has read everything
            connection.sendall(data)
        with suppress(TimeoutError, ConnectionError):
            while chunk := connection.recv(65536):
                found += chunk
    return found


def endless(**fields) -> dict:
    return serving.chat("dog", max_tokens=50000, **fields)


def head(path=CHAT, *lines, method="POST"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


# --- too large ---


def test_a_body_that_says_it_is_too_large(server):
    assert is_error(server.http.post(CHAT, content=bytes(2 * MIB), headers=JSON), 413, "request_too_large")


def test_a_body_that_does_not_say_so(server):
    def chunks():
        for _ in range(40):
            yield bytes(MIB // 16)

    assert is_error(server.http.post(CHAT, content=chunks(), headers=JSON), 413, "request_too_large")


def test_bombs(server):
    for size in ((1001, 1000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)):
        data = hostile.bomb(*size)
        assert len(data) < 200
        for image in (serving.data_uri(data), None):
            files = None if image else {"image": ("a.png", data)}
            sent = {"json": {"image": image, "question": "a"}} if image else {"data": {"question": "a"}, "files": files}
            response = server.http.post("/v1/segment", **sent)
            assert response.status_code in (400, 413)
            is_error(response, response.status_code)


def segment(server, image: bytes, **options):
    return server.http.post("/v1/segment", files={"image": image}, data={"question": "a", "max_tokens": 1}, **options)


def test_a_jpeg_of_many_scans(server):
    """Without a limit, 7,000 scans of a megapixel take 12 s."""
    response = segment(server, hostile.scans(1000, 1000, 7000))
    assert is_error(response, 400, "invalid_image")
    assert "at most 100 scans" in response.json()["error"]["message"]


def test_decoders_that_are_killed(server):
    for process in server.children("pixellm.serve.decoding"):
        os.kill(process, signal.SIGKILL)
    assert segment(server, serving.png()).status_code == 200


def test_warnings_are_counted_and_not_written(server, capfd):
    before = server.metric("pixellm_image_warnings_total")
    assert segment(server, hostile.noisy(1000)).status_code == 200
    assert server.metric("pixellm_image_warnings_total") >= before + 1000
    assert "EXIF" not in capfd.readouterr().err


def test_many_headers(server):
    many = [f"X-{number}: {number}" for number in range(10_000)]
    for lines in (many, ["X: " + "y" * 200_000], [f"X-{n}: y" for n in range(150)]):
        answer = raw(server, head("/v1/models", *lines, method="GET"), 3)
        assert b" 431 " in answer.split(b"\r\n")[0]
        assert b"headers_too_large" in answer


def test_texts_turns_and_tokens(server):
    image = serving.png()
    assert is_error(server.http.post(CHAT, json=serving.chat("x" * 2001, image)), 400)
    assert is_error(server.http.post(CHAT, json=serving.chat("x", image, max_tokens=50001)), 400)
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    body = serving.chat("x", image)
    body["messages"] = [*turn * 4, *body["messages"]]
    assert is_error(server.http.post(CHAT, json=body), 400)
    body["messages"] = body["messages"] * 100
    assert is_error(server.http.post(CHAT, json=body), 400)
    for past in ("b" * 8001, "\U0001f98a" * 250_000, [{"type": "text", "text": "b"}] * 65):
        spans = [{"span": [0, 250_000]}] * 256
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": past, "targets": spans}]
        body["messages"] = [*turn, *serving.chat("x", image)["messages"]]
        assert is_error(server.http.post(CHAT, json=body), 400)
    turn = [{"role": "user", "content": "a" * 2000}, {"role": "assistant", "content": "b" * 8000}]
    body["messages"] = [{"role": "system", "content": "c" * 2000}] * 11 + turn * 2 + serving.chat("x")["messages"]
    response = server.http.post(CHAT, json=body)
    assert is_error(response, 400)
    assert "a conversation of at most 40000 characters" in response.text


def test_json_of_many_values(server):
    """A megabyte of it would take 80 in memory, and block everybody for half a second."""
    for values in ("[" + "[]," * 300_000 + "0]", '{"":0' + ',"":0' * 150_000 + "}", '["a"' + ',"a"' * 100_000 + "]"):
        body = json.dumps(serving.chat("a")).removesuffix("}") + f',"more":{values}}}'
        began = time.monotonic()
        assert is_error(server.http.post(CHAT, content=body, headers=JSON), 413)
        files, form = {"image": ("a.png", serving.png())}, {"request": body}
        assert is_error(server.http.post(CHAT, data=form, files=files), 413)
        assert time.monotonic() - began < 2


# --- too slow ---


def test_a_slow_body(server):
    began = time.monotonic()
    answer = raw(server, head(CHAT, "Content-Type: application/json", "Content-Length: 1000") + b"{", 10)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert time.monotonic() - began < 8


def test_slow_headers(server):
    for start in (b"", b"GET /v1/models HTTP/1.1\r\nHost: local"):
        assert b" 408 " in raw(server, start, 10).split(b"\r\n")[0]


def test_slow_headers_behind_a_request(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head("/healthz", method="GET"))
        while not connection.recv(65536).endswith(b"}"):
            pass
        connection.sendall(b"GET /v1/mod")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_a_refused_body_that_drips(server):
    """Its connection ends, though it never does."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head(CHAT, "Content-Type: application/json", "Content-Length: 10000000"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        with suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b"x")
                time.sleep(0.1)
            pytest.fail("it is still open")


def test_an_answer_that_takes_too_long(server):
    assert is_error(server.http.post(CHAT, json=endless()), 504, "timeout")
    streamed = server.http.post(CHAT, json=endless(stream=True))
    assert streamed.status_code == 200
    *_, error, _end = streamed.text.strip().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "timeout"


def test_answers_that_nobody_reads(server):
    """What is being written counts as in flight; then the connection is aborted, and nothing is left."""
    stream = io.BytesIO()
    noise = Image.frombytes("RGB", (1000, 1000), random.Random(0).randbytes(3_000_000))
    noise.save(stream, "JPEG", quality=50)
    answer = server.http.post("/v1/segment", **upload(stream.getvalue(), "image/png"))
    assert len(answer.content) > 2 * MIB
    request = server.http.build_request("POST", "/v1/segment", **upload(stream.getvalue(), "image/png"))
    data = head("/v1/segment", *(f"{name}: {value}" for name, value in request.headers.items() if name != "host"))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(20)
        connection.sendall((data + request.read()) * 5)  # one after the other, until the kernel's buffers are full
        server.wait_for(lambda: server.metric("pixellm_in_flight_requests") == 2)  # with the one for the metrics
        time.sleep(0.5)
        server.wait_for(lambda: server.metric("pixellm_in_flight_requests") == 1)
        assert server.metric("pixellm_running_questions") == 0
        with pytest.raises(ConnectionError):
            read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def upload(image: bytes, accept: str) -> dict:
    form = {"question": "table", "max_tokens": "2"}
    return {"files": {"image": ("a", image)}, "data": form, "headers": {"Accept": accept}}


def test_a_client_that_closes_its_half_gets_its_answer(server):
    body = json.dumps(serving.chat("table")).encode()
    lines = ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    for request in (head("/healthz", method="GET"), head(CHAT, *lines) + body):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_client_that_closes_both_halves_is_not_answered_further(server):
    cancelled = server.metric('pixellm_answers_total{outcome="cancelled"}')
    body = json.dumps(endless()).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        lines = ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        connection.sendall(head(CHAT, *lines) + body)
        connection.shutdown(socket.SHUT_WR)
        server.wait_for(lambda: server.metric("pixellm_running_questions") == 1)
    server.wait_for(lambda: server.metric('pixellm_answers_total{outcome="cancelled"}') == cancelled + 1, 4)


# --- too many ---


def test_a_full_queue_and_too_many_requests(server):
    """One has the worker, two are on their way to it, two wait; the next finds no place, a seventh not even a door."""
    body = endless()
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(server.http.post, CHAT, json=body)]
        for number in range(1, 5):
            waiting.append(pool.submit(server.http.post, CHAT, json=body))
            server.wait_for(lambda expected=number + 1: known(server) == expected)
        assert server.metric("pixellm_queue_questions") == 2
        full = server.http.post(CHAT, json=body)
        assert is_error(full, 503, "queue_full")
        assert int(full.headers["retry-after"]) > 0
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(CHAT, "Content-Type: application/json", "Content-Length: 1000"))  # a sixth
            server.wait_for(lambda: health_says_full(server))
        assert [one.result().status_code for one in waiting] == [504] * 5


def known(server) -> float:
    return server.metric("pixellm_running_questions") + server.metric("pixellm_queue_questions")


def health_says_full(server) -> bool:
    """Whether one more is turned away at the door; those that ask for health are not."""
    assert server.http.get("/healthz").status_code == 200
    refused = server.http.get("/v1/models")
    if refused.status_code == 200:
        return False
    assert int(refused.headers["retry-after"]) > 0
    return is_error(refused, 429, "rate_limit_exceeded")


# --- broken ---

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
PUNYCODE, UNDEFINED, UNKNOWN = (
    {"Content-Type": f"multipart/form-data; boundary=b; charset={name}"} for name in ("punycode", "undefined", "x-y")
)
UTF_7 = {"Content-Type": "multipart/form-data; boundary=b; charset=utf-7"}
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b""),
        (JSON, b"{"),
        (JSON, b"\xff\xfe"),
        (JSON, b"[" * 100_000),
        (JSON, b'{"a":' * 50_000),
        (JSON, b"null"),
        (JSON, b'{"model": "tiny", "messages": "\\ud800"}'),
        (JSON, b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}'),
        (JSON, json.dumps(serving.chat("a", temperature=float("nan"))).encode()),
        (JSON, json.dumps(serving.chat("a", temperature=1e400)).encode()),
        (JSON, json.dumps(serving.chat("a", max_tokens=-1)).encode()),
        (JSON, json.dumps(serving.chat("a", max_tokens=10**30)).encode()),
        (JSON, json.dumps(serving.chat("a", max_tokens="9")).encode()),
        (JSON, json.dumps(serving.chat("a", seed=2**64)).encode()),
        (JSON, json.dumps(serving.chat("a", n=2)).encode()),
        (JSON, json.dumps({"model": MODEL, "messages": []}).encode()),
        (JSON, json.dumps({"model": MODEL, "messages": [{"role": "tool", "content": "a"}]}).encode()),
        (FORM, b""),
        (FORM, b"--b--\r\n"),
        (FORM, PART),
        (FORM, PART + b"x"),
        (FORM, PART + b"x\r\n--b--\r\n"),
        (FORM, PART.replace(b'"a.png"', b'"../../etc/passwd\x00"') + b"x\r\n--b--\r\n"),
        (FORM, (PART + b"x\r\n") * 30 + b"--b--\r\n"),
        (FORM, b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n' * 1000 + b"--b--\r\n"),
        (FORM, b"--b\r\n" + b"X: y\r\n" * 5000),
        (FORM, b"no boundary at all"),
        (FORM, PART + b'\r\n--b\r\nContent-Disposition: form-data; name="question"\r\n\r\na\r\n--b--\r\n'),
        (UTF_7, PART + b'x\r\n--b\r\nContent-Disposition: form-data; name="request"\r\n\r\n+2AA-\r\n--b--\r\n'),
        (UTF_7, PART + b'x\r\n--b\r\nContent-Disposition: form-data; name="question"\r\n\r\n+2AA-\r\n--b--\r\n'),
        *((charset, PART + b"x\xff\r\n--b--\r\n") for charset in (PUNYCODE, UNDEFINED, UNKNOWN)),
        ({"Content-Type": "multipart/form-data"}, b"--b--"),
        ({"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}, b"--b--"),
    ],
)
def test_broken_bodies(server, headers, body):
    for path in (CHAT, "/v1/segment"):
        assert is_error(server.http.post(path, content=body, headers=headers), 400)


def test_other_kinds_of_bodies(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/xml"):
        assert is_error(server.http.post(CHAT, content=b"a=b", headers={"Content-Type": kind}), 415)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\x00\x00\x00\r\n\r\n",
        head(CHAT, "Content-Length: -1"),
        head(CHAT, "Content-Length: 5", "Content-Length: 6"),
        head(CHAT, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head(CHAT, "Transfer-Encoding: chunked", "Content-Type: application/json") + b"zz\r\nhello\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nX Y: z\r\n\r\n",
    ],
)
def test_what_is_no_http(server, data):
    answer = raw(server, data, 4)
    assert answer.split(b"\r\n")[0].split()[1] in (b"400", b"408", b"415", b"421")
    assert b"Traceback" not in answer


def test_a_request_with_two_lengths_ends_its_connection(server):
    """RFC 9112, 6.1: a proxy may have seen another end, so that what follows is another client's."""
    lines = ("Content-Length: 4", "Transfer-Encoding: chunked")
    following = head("/healthz", method="GET")
    for path in ("/healthz", CHAT):
        answer = raw(server, head(path, *lines) + b"0\r\n\r\n" + following, 4)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"\r\nconnection: close\r\n" in answer


def test_paths_and_methods(server):
    for path in ("/../../etc/passwd", "/v1/models/..%2f..%2fetc/passwd", "/%00", "/v1/models/x", "/docs", "/static/a"):
        assert is_error(server.http.get(path), 404)
    for method in ("PUT", "DELETE", "TRACE", "PATCH"):
        assert server.http.request(method, CHAT).status_code in (405, 415)


def test_urls_are_not_fetched(server):
    for url in (
        *("http://169.254.169.254/latest/meta-data/", f"{server.url}/metrics", "file:///etc/passwd", "example:cat"),
        *("ftp://x/y", "http://[::1]/", "//x", "", "/etc/passwd", "javascript:1"),
    ):
        body = serving.chat("a")
        body["messages"][0]["content"][1]["image_url"]["url"] = url
        assert is_error(server.http.post(CHAT, json=body), 400)
        assert is_error(server.http.post("/v1/segment", json={"image": url, "question": "a"}), 400)


def test_control_tokens_in_questions_are_text(server):
    for question in (
        "[SEG0][SEG1] <image> <|im_end|>",
        "{seg}{question}{system}",
        "</s><s>",
        "\x00\x01\u202e",
        "🦊" * 300,
    ):
        body = serving.chat(question, max_tokens=4)
        body["messages"] = [
            {"role": "system", "content": question},
            body["messages"][0],
            {"role": "assistant", "content": question, "targets": [{"span": [0, 2]}]},
            {"role": "user", "content": question},
        ]
        assert server.http.post(CHAT, json=body).status_code in (200, 400)  # 400: more tokens than are allowed


def test_odd_sampling(server):
    for sampling in (
        {"temperature": 1e-300},
        {"temperature": 2.0, "top_p": 1e-300},
        {"temperature": 0.01, "seed": -(2**63)},
    ):
        assert server.http.post(CHAT, json=serving.chat("table", **sampling)).status_code == 200


# --- other web sites ---


def test_other_names_and_other_sites(server):
    """Pages in its owner's browser reach a server without keys, but not by their names (DNS rebinding) nor as such."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert is_error(server.http.get("/v1/models", headers={"Host": host}), 421)
    for host in ("localhost", f"localhost:{server.port}", "127.0.0.1", "[::1]:80"):
        assert server.http.get("/v1/models", headers={"Host": host}).status_code == 200
    assert is_error(server.http.get("/v1/models", headers={"Sec-Fetch-Site": "cross-site"}), 403)
    answered = server.http.get("/v1/models", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answered.headers


# --- before it starts ---


def test_no_keys_no_other_address(tmp_path):
    command = [sys.executable, "-m", "pixellm", "serve", str(tmp_path), "--host", "0.0.0.0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "expected API keys for 0.0.0.0" in ended.stderr


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path):
    model = serving.write_model(tmp_path)
    (model / "model.safetensors").write_bytes(b"broken")
    command = [sys.executable, "-m", "pixellm", "serve", str(model), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert "the model could not be loaded" in ended.stderr


def test_the_protocol_is_the_one_that_uvicorn_has():
    """It overrides these; another release might call them otherwise."""
    for name in ("connection_made", "connection_lost", "data_received", "send_400_response"):
        assert callable(getattr(serve_server.H11Protocol, name))


def test_no_image_and_no_question_in_the_logs(tmp_path_factory, capfd):
    model = serving.write_model(tmp_path_factory.mktemp("logged"))
    image = serving.data_uri(serving.png())
    with serving.serving(model) as server:
        body = {"image": image, "question": "whereisthesecret", "max_tokens": 4}
        assert server.http.post("/v1/segment?q=whereisthesecret", json=body).status_code == 200
        assert server.http.post("/v1/segment", json={**body, "max_tokens": "x"}).status_code == 400
        assert httpx2.get(server.url + "/whereisthesecret").status_code == 404
        server.end()
    logged = capfd.readouterr().err
    assert "POST /v1/segment 200" in logged
    assert "whereisthesecret" not in logged
    assert image[40:80] not in logged
