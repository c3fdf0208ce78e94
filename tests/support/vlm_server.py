"""A server that speaks the OpenAI chat protocol over real HTTP, looks at what it is sent, keeps its own accounts, and
fails on command.

    with VlmServer(rates={"429": 0.1, "cut": 0.05}, seed=1) as server: ... server.url ... server.account

It answers prompts of `pixellm muse generate` with two objects of their list, and those of the verifier with yes.
`python tests/support/vlm_server.py --latency 0.2` serves in a process of its own and prints its address.
"""

import argparse
import asyncio
import base64
import hashlib
import io
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

IMAGE_TOKENS = 700
STATUS = {"408": 408, "429": 429, "500": 500, "503": 503}
WORDS = ("umber", "violet", "walnut", "yarrow", "zinnia", "saffron", "tansy", "quince", "poppy", "olive")


@dataclass
class Account:
    """What was answered: whole replies, how often each request got one, and their tokens; `faults` by kind.

    `broken` counts replies that were cut off, `requests` everything that came.
    """

    requests: int = 0
    replies: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    broken: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    times: list[float] = field(default_factory=list)


class VlmServer:
    """Serves in a thread; use it as a context.

    Args:
        rates: how often each fault is drawn: 408, 429, 500, 503, cut_before, cut, malformed, refusal, length, wrong.
        script: faults of the first requests in turn, "" for none; it comes before `rates`.
        seed: of the draws.
        latency: seconds that each reply takes.
        retry_after: seconds that 429 and 503 ask to wait.
        key: the only one that is let in; None: any.
        structured, new_limit, usage: whether response_format, max_completion_tokens and usage are known.
        reply: in place of the usual answer: the request's text → the reply's.
    """

    def __init__(
        self,
        rates: dict[str, float] | None = None,
        script: tuple[str, ...] = (),
        seed: int = 0,
        latency: float = 0.0,
        retry_after: str = "0.01",
        key: str | None = None,
        structured: bool = True,
        new_limit: bool = True,
        usage: bool = True,
        reply: Callable[[str], str] | None = None,
    ) -> None:
        self.account = Account()
        self.rates, self.script, self.latency, self.retry_after = rates or {}, list(script), latency, retry_after
        self.key, self.structured, self.new_limit, self.usage = key, structured, new_limit, usage
        self.bodies: list[dict[str, Any]] = []
        self._reply, self._rng, self._now = reply or usual_reply, random.Random(seed), 0
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", lambda _: JSONResponse({"object": "list", "data": [{"id": "vlm", "object": "model"}]})),
            Route("/account", lambda _: JSONResponse(vars(self.account))),
        ]
        app = _with_transport(Starlette(routes=routes))
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        )

    def __enter__(self) -> "VlmServer":
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def serve(self) -> None:
        """Here, until it is ended."""
        self._server.run([self._socket])

    async def _chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.account.requests += 1
        self.account.times.append(time.monotonic())
        self.bodies = [*self.bodies[-9:], body]
        self._now += 1
        self.account.most_at_once = max(self.account.most_at_once, self._now)
        try:
            return await self._respond(request, body)
        finally:
            self._now -= 1

    async def _respond(self, request: Request, body: dict[str, Any]) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided")
        for field_, known in (("response_format", self.structured), ("max_completion_tokens", self.new_limit)):
            if field_ in body and not known:
                return _error(400, f"Unknown parameter: {field_}")
        text, images = content(body["messages"])
        fault = self._fault()
        self.account.faults[fault] += bool(fault)
        if fault in STATUS:
            after = {"retry-after": self.retry_after} if fault in ("429", "503") else {}
            return _error(STATUS[fault], f"status {fault} on command", after)
        await asyncio.sleep(self.latency)
        if fault == "cut_before":
            return _Cut()
        words = _spoilt(self._reply(text), fault)
        tokens = len(text.split()) + IMAGE_TOKENS * images, len(words.split())
        end = {"length": "length"}.get(fault, "stop")
        message = {"role": "assistant", "content": None if fault == "refusal" else words}
        message |= {"refusal": "I would rather not."} if fault == "refusal" else {}
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        key = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()
        if body.get("stream"):
            counted = usage if self.usage and (body.get("stream_options") or {}).get("include_usage") else None
            return StreamingResponse(
                self._stream(key, message, end, counted, tokens, fault), media_type="text/event-stream"
            )
        if fault == "cut":
            return _Cut()
        self._keep(key, tokens)
        choice = {"index": 0, "message": message, "finish_reason": end}
        return JSONResponse(_envelope("chat.completion", choice) | ({"usage": usage} if self.usage else {}))

    def _fault(self) -> str:
        if self.script:
            return self.script.pop(0)
        drawn = self._rng.random()
        for fault, rate in self.rates.items():
            drawn -= rate
            if drawn < 0:
                return fault
        return ""

    def _keep(self, key: str, tokens: tuple[int, int]) -> None:
        self.account.replies += 1
        self.account.answered[key] += 1
        self.account.tokens_in += tokens[0]
        self.account.tokens_out += tokens[1]

    async def _stream(
        self, key: str, message: dict[str, Any], end: str, usage: Any, tokens: tuple[int, int], fault: str
    ) -> AsyncIterator[str]:
        part = "refusal" if message.get("refusal") else "content"
        pieces = re.findall(r".{1,40}", message[part], re.DOTALL)
        for number, piece in enumerate(pieces):
            if fault == "cut" and number == len(pieces) // 2:
                self.account.broken += 1
                raise ConnectionResetError("cut on command")
            yield _event(
                _envelope("chat.completion.chunk", {"index": 0, "delta": {part: piece}, "finish_reason": None})
            )
        self._keep(key, tokens)
        yield _event(_envelope("chat.completion.chunk", {"index": 0, "delta": {}, "finish_reason": end}))
        if usage:
            yield _event(_envelope("chat.completion.chunk", None) | {"usage": usage})
        yield "data: [DONE]\n\n"


def _with_transport(app: Any) -> Any:
    """Lets a response get at its connection."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"transport": send.__self__.transport}, receive, send)

    return outer


class _Cut(Response):
    """Ends the connection in the place of a reply."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["transport"].abort()


def _error(status: int, words: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": words, "type": "error", "code": None}}, status, headers)


def _envelope(kind: str, choice: dict[str, Any] | None) -> dict[str, Any]:
    return {"id": "1", "object": kind, "created": 0, "model": "vlm", "choices": [choice] if choice else []}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def content(messages: list[dict[str, Any]]) -> tuple[str, int]:
    """All words of the messages, and how many photographs they show; each is decoded."""
    texts, images = [], 0
    for message in messages:
        said = message["content"]
        for part in [{"type": "text", "text": said}] if isinstance(said, str) else said:
            if part["type"] == "text":
                texts.append(part["text"])
                continue
            head, data = part["image_url"]["url"].split(",", 1)
            assert re.fullmatch("data:image/(jpeg|png|webp);base64", head)
            Image.open(io.BytesIO(base64.b64decode(data, validate=True))).verify()
            images += 1
    return "\n".join(texts), images


def usual_reply(text: str) -> str:
    """Two objects of the list for a purpose that the checks have nothing against; a yes for the verifier."""
    things = re.findall(r"^(\d+)\. (.+) at \[(\d+), (\d+), (\d+), (\d+)\]$", text, re.MULTILINE)
    if not things:
        return json.dumps({"verdict": "yes", "reason": "It is as it says."})
    rng = random.Random(text)
    (a, first, *_), (b, second, *_) = rng.sample(things, 2)
    colours = rng.sample(WORDS, 2)
    answer = f"Take [the {colours[0]} {_plain(first)}]({a}) together with [the {colours[1]} {_plain(second)}]({b})."
    question = f"What would a guest called {rng.choice(WORDS).title()} need for a {rng.choice(WORDS)} party tonight?"
    return json.dumps({"pairs": [{"objects": [int(a), int(b)], "question": question, "answer": answer}]})


def _plain(category: str) -> str:
    return re.sub(r"\s*\(.*?\)", "", category)


def _spoilt(reply: str, fault: str) -> str:
    if fault == "malformed":
        return "Sure! " + reply[: len(reply) // 2]
    if fault == "length":
        return reply[:-20]
    if fault == "wrong" and "pairs" in reply:
        row = json.loads(reply)
        row["pairs"][0]["objects"] = [99, 100]
        return json.dumps(row)
    return reply


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    server = VlmServer(latency=parser.parse_args().latency)
    print(server.url, flush=True)
    server.serve()
