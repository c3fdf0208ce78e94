"""Requests: JSON of chats, forms, and raw bytes on a connection; each ends in an answer or an error below 500."""

import asyncio
import json
import logging
import socket
import threading
import time
from contextlib import asynccontextmanager, suppress

import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from pixellm.serve import errors, routes
from pixellm.serve.authentication import ApiKeys
from pixellm.serve.dispatcher import Dispatcher
from pixellm.serve.messages import AnswerFinished, RefineJob, WorkerSettings
from pixellm.serve.metrics import Metrics
from pixellm.serve.middleware import RequestMiddleware
from pixellm.serve.request_handler import RequestHandler
from pixellm.serve.server import Server
from pixellm.serve.settings import ServeSettings
from pixellm.types import TextPiece
from tests.support import serving

CHAT, SEGMENT, REFINE = "/v1/chat/completions", "/v1/segment", "/v1/refine"
SECONDS = 10  # for one request on a busy machine: none waits for anything
SETTINGS = ServeSettings(
    serving.MODEL, max_body_bytes=1 << 16, max_pixels=10_000, header_timeout=0.3, body_timeout=0.3, write_timeout=1
)


class Answering(Dispatcher):
    """Dispatcher that answers itself, in the place of a worker, whatever the worker would be asked."""

    def submit(self, job, due):
        if isinstance(job, RefineJob):
            job.target.phrase.encode()
            events = (job.target, AnswerFinished("refined", 0, 0, None, 0.0))
        else:
            job.question.encode()
            for text in (job.system or "", *(turn.question + turn.text for turn in job.history)):
                text.encode()
            events = (TextPiece("a"), AnswerFinished("stop", 1, 1, None, 0.0))
        pending = super().submit(job, due)
        for event in events:
            pending.queue.put_nowait(event)
        self._queue.clear()
        return pending


def build() -> RequestMiddleware:
    metrics = Metrics()
    dispatcher = Answering(WorkerSettings(""), SETTINGS, metrics)
    handler = RequestHandler(SETTINGS, dispatcher)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        await handler.decoder.processes.close()

    app = FastAPI(lifespan=lifespan)
    errors.install(app)
    for build_routes in (routes.chat_routes, routes.segment_routes, routes.refine_routes, routes.status_routes):
        app.include_router(build_routes(handler))
    return RequestMiddleware(app, SETTINGS, ApiKeys(), metrics, dispatcher.end_answers)


@pytest.fixture(scope="module")
def client():
    with TestClient(build(), raise_server_exceptions=True) as client:
        yield client


@pytest.fixture(scope="module")
def port():
    """A real server on a port of its own, in a thread."""
    server = Server(build(), SETTINGS, lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        server.stop()
        thread.join(20)


@pytest.fixture(autouse=True)
def no_tracebacks(caplog):
    yield
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def check(response) -> None:
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text[:500]
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


# --- JSON ---

IMAGE = serving.data_uri(serving.png(8, 8))
texts = st.text(max_size=30) | st.sampled_from(["", " ", "a\u0301" * 20, "\ud800", "<image>", "x" * 2001, "\u202e\x00"])
numbers = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 1e400, 0, 1, -1])
junk = st.recursive(st.none() | st.booleans() | numbers | texts, lambda v: st.lists(v) | st.dictionaries(texts, v))
urls = texts | st.sampled_from(
    [IMAGE, IMAGE[:50], IMAGE + "=", "data:,", "data:image/png;base64,", "http://[", "file:///"]
)
parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": urls})})
    | junk,
    max_size=4,
)
spans = st.lists(st.integers(-1, 40) | junk, max_size=3)
targets = st.lists(st.fixed_dictionaries({"span": spans}) | junk, max_size=4)
roles = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
message = {"role": roles, "content": texts | parts | junk}
messages = st.lists(st.fixed_dictionaries(message, optional={"targets": st.none() | targets | junk}) | junk, max_size=6)
values = junk | st.sampled_from([0, 0.5, 1, 64])
options = dict.fromkeys(("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "n", "stop"), values)
streams = {"stream": st.booleans() | junk, "stream_options": junk | st.just({"include_usage": True})}
bodies = st.fixed_dictionaries({"model": st.just(serving.MODEL), "messages": messages}, optional={**options, **streams})
ask = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}, {"type": "text", "text": "a"}]}
past = {"role": "assistant", "content": "the dog", "targets": [{"span": [0, 7]}] * 3}


@given(body=bodies | junk)
@example(body={"model": serving.MODEL, "messages": [ask]})
@example(body={"model": serving.MODEL, "messages": [ask], "stream": True})
@example(body={"model": serving.MODEL, "messages": [ask, past, {"role": "user", "content": "b"}]})
def test_chats(client, body):
    check(client.post(CHAT, content=json.dumps(body), headers={"Content-Type": "application/json"}))


places = st.lists(numbers, max_size=5) | junk
rles = st.fixed_dictionaries({"size": st.just([8, 8]) | places, "counts": st.sampled_from(["05k1", "0", "P2"]) | texts})
marked = st.fixed_dictionaries(
    {"segmentation": rles | junk}, optional={"phrase": texts, "span": spans, "presence": values}
)
strokes = st.fixed_dictionaries({"points": st.lists(places, max_size=4)}, optional={"positive": st.booleans() | junk})
marks = {
    "target": marked | junk,
    "points": st.lists(places, max_size=4) | junk,
    "box": places,
    "strokes": st.lists(strokes),
}


@given(body=st.fixed_dictionaries({"image": urls}, optional=marks))
@example(body={"image": IMAGE, "target": {"segmentation": {"size": [8, 8], "counts": "05k1"}}, "points": [[1, 1, 1]]})
def test_corrections(client, body):
    check(client.post(REFINE, content=json.dumps(body), headers={"Content-Type": "application/json"}))


kinds = st.sampled_from(["*/*", "image/png", "application/vnd.coco+json", "text/html", "image/*;q=.1", "*;q=x", ",;="])
accepts = st.lists(kinds | texts, max_size=3).map(",".join)


@given(body=st.fixed_dictionaries({"image": urls | junk, "question": texts | junk}, optional=options), accept=accepts)
def test_questions(client, body, accept):
    accept = accept.encode("ascii", "ignore").translate(None, bytes(range(32)))
    headers = {b"Content-Type": b"application/json", b"Accept": accept}
    check(client.post(SEGMENT, content=json.dumps(body), headers=headers))


paths = st.sampled_from([CHAT, SEGMENT])


@given(body=st.binary(max_size=200) | st.text('[]{}",:\\0u', max_size=200).map(str.encode), path=paths)
@example(body=b"[" * 50_000, path=CHAT)
@example(body=b'{"a":[' + b"[]," * 20_000, path=CHAT)
def test_bytes_as_json(client, body, path):
    check(client.post(path, content=body, headers={"Content-Type": "application/json"}))


# --- forms ---

tokens = st.text("abc-=;\"'* \\/%", max_size=12)
codecs = ["utf-8", "ascii", "punycode", "undefined", "idna", "utf-7", "hex", "rot13", "x", "\xff"]
charsets = st.sampled_from(codecs) | tokens
names = ['name="image"; filename="a"', 'name="question"', 'name="request"', "name=a; filename*=utf-8''%ff", ""]
disposition = st.builds("form-data; {}".format, st.sampled_from(names) | st.builds("{}={}".format, tokens, tokens))
chat = json.dumps({"model": serving.MODEL, "messages": [{"role": "user", "content": "a"}]}).encode()
contents = st.binary(max_size=40) | st.sampled_from([b"table", serving.png(8, 8), chat])
headers = st.lists(st.tuples(tokens, tokens), max_size=3)
form_parts = st.lists(st.tuples(disposition, headers, contents), max_size=4)


@given(
    boundary=tokens | st.just("b"),
    charset=st.none() | charsets,
    parts=form_parts,
    ending=st.sampled_from([b"--{}--\r\n", b"--{}--", b"--{}", b"\r\n", b""]) | st.binary(max_size=10),
    path=paths,
)
@example(boundary="b", charset="punycode", parts=[('form-data; name="\xff"', [], b"\xff")], ending=b"--{}--", path=CHAT)
@example(boundary="b", charset="undefined", parts=[('form-data; name="a"', [], b"a")], ending=b"--{}--", path=SEGMENT)
def test_forms(client, boundary, charset, parts, ending, path):
    body = b""
    for kind, extra, content in parts:
        lines = [f"Content-Disposition: {kind}", *(f"{name}: {value}" for name, value in extra)]
        body += f"--{boundary}\r\n".encode() + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content + b"\r\n"
    body += ending.replace(b"{}", boundary.encode())
    kind = f"multipart/form-data; boundary={boundary}" + ("" if charset is None else f"; charset={charset}")
    check(client.post(path, content=body, headers={b"Content-Type": kind.encode("latin-1")}))


# --- bytes on a connection ---

good = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
body = json.dumps({"model": serving.MODEL, "messages": [ask]}).encode()
lines = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 4",
            b"Content-Length: 5",
            b"Content-Length: %d" % len(body),
            b"Content-Length: -1",
            b"Content-Length: 4, 4",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: identity",
            b"Connection: close",
            b"Connection: upgrade",
            b"Upgrade: websocket",
            b"Expect: 100-continue",
            b"Content-Type: application/json",
            b"Content-Type: multipart/form-data; boundary=b",
            b" folded",
            b"X" * 40_000,
        ]
    )
    | st.binary(max_size=20),
    max_size=5,
)
whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
chunks = st.sampled_from([b"", b"0\r\n\r\n", b"4\r\nabcd\r\n0\r\n\r\n", whole, b"zz\r\n", body])
two_lengths = b"POST %b HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % CHAT.encode()
requests = st.builds(
    lambda method, target, version, lines, rest: (
        b"%b %b %b\r\n%b\r\n\r\n%b" % (method, target, version, b"\r\n".join([b"Host: localhost", *lines]), rest)
    ),
    st.sampled_from([b"GET", b"POST", b"HEAD", b"CONNECT", b"get", b""]),
    st.sampled_from([b"/healthz", CHAT.encode(), b"/v1/models/%ff%00", b"*", b"http://x/", b"/\xff"]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 "]),
    lines,
    chunks | st.binary(max_size=40),
)


@given(
    data=st.lists(requests | st.just(good) | st.binary(max_size=60), max_size=4).map(b"".join),
    cut=st.integers(0, 200),
    half=st.booleans(),
)
@example(data=good + good, cut=5, half=True)
@example(data=two_lengths, cut=0, half=False)
def test_bytes_on_a_connection(port, data, cut, half):
    """Every response is whole, and the connection ends; the server answers the next client."""
    began = time.monotonic()
    answer = exchange(port, [data[:cut], data[cut:]], half)
    statuses = [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert all(status < 500 for status in statuses), answer[:500]
    assert b"Traceback" not in answer
    assert exchange(port, [good], True).startswith(b"HTTP/1.1 200 OK\r\n")
    assert time.monotonic() - began < SECONDS


def exchange(port: int, pieces: list[bytes], half: bool) -> bytes:
    """Send bytes, and return what comes back until the end of the connection, or until nothing more is expected."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        with suppress(OSError):  # the server may have closed it already
            for piece in pieces:
                connection.sendall(piece)
            if half:
                connection.shutdown(socket.SHUT_WR)
            else:
                connection.settimeout(0.05)
        with suppress(ConnectionError, TimeoutError):
            while received := connection.recv(65536):
                answer += received
    return answer
