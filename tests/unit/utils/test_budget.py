"""Limits of a client: caps through losses and restarts, waits as the server asks, a key that stays secret."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pixellm.muse.journal import Journal
from pixellm.muse.vlm.reply_cache import journal_budget
from pixellm.utils import openai_client as module
from pixellm.utils.budget import Budget, BudgetError, Price, RateLimiter, Reservation
from pixellm.utils.openai_client import ChatClient, RefusedError
from pixellm.utils.server_settings import ServerSettings
from tests.support.vlm_server import VlmServer

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
PRICES = {"vlm": Price(input=2, output=10)}
KEY = "sk-very-secret-0123456789"
GOOD = {"index": 0, "message": {"role": "assistant", "content": "{}"}, "finish_reason": "stop"}


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)


def settings(url: str, **changes: Any) -> ServerSettings:
    return ServerSettings(**({"model": "vlm", "url": url, "prices": PRICES, "max_output": 100} | changes))


def ask(one: ServerSettings, count: int = 1, budget: Budget | None = None) -> tuple[list[Any], ChatClient, Budget]:
    """Asks `count` different things at once."""
    budget = budget or one.budget()

    async def work() -> tuple[list[Any], ChatClient]:
        async with ChatClient(one, budget) as client:
            jobs = [client.ask([{"role": "user", "content": f"{i} x"}], SCHEMA) for i in range(count)]
            return await asyncio.gather(*jobs, return_exceptions=True), client

    answers, client = asyncio.run(work())
    return answers, client, budget


@contextmanager
def replying(*replies: tuple[int, str, str]) -> Iterator[str]:
    """The address of a server that gives one (status, content type, body) after another, the last again and again."""
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, kind, body = left.pop(0) if len(left) > 1 else left[0]
            data = body.replace("KEY", self.headers["Authorization"].removeprefix("Bearer ")).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def whole(**more: Any) -> str:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [GOOD], "usage": usage} | more)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", "<html>a proxy's page</html>"),
        ("application/json", '{"id": "1", "choices": [{"index": 0, "mess'),
        ("application/json", "[]"),
        ("application/json", "null"),
        ("application/json", '{"error": {"message": "overloaded"}}'),
        ("application/json", whole(choices=[{"index": 0}])),
        ("application/json", whole(choices=None)),
        ("application/json", whole(usage={"prompt_tokens": "many", "completion_tokens": 2})),
    ],
)
def test_what_is_no_reply_is_tried_again_and_counts_as_lost(kind, body) -> None:
    with replying((200, kind, body), (200, "application/json", whole())) as url:
        (call,), client, budget = ask(settings(url, stream=False))
    assert (call.text, call.tokens_in, call.tokens_out) == ("{}", 5, 2)
    assert (client.retries, budget.lost_calls) == (1, 1)


def test_a_key_that_a_server_repeats_is_not_told(monkeypatch, caplog) -> None:
    caplog.set_level("DEBUG", "pixellm")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    error = json.dumps({"error": {"message": "Incorrect API key provided: KEY"}})
    for status, kind in ((401, RefusedError), (422, ValueError), (500, ValueError)):
        with replying((status, "application/json", error)) as url:
            (found,), *_ = ask(settings(url, retries=1))
        assert isinstance(found, kind)
        assert KEY not in f"{found!r}{caplog.text}"


def test_a_retry_after_is_honoured_whatever_its_form(monkeypatch) -> None:
    waits = []
    sleep = asyncio.sleep

    async def instead(seconds: float, *more: Any) -> None:
        waits.append(seconds)
        await sleep(0, *more)

    monkeypatch.setattr(asyncio, "sleep", instead)
    for header, least, most in (
        ("90", 90, 91),
        (format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True), 250, 301),
    ):
        waits.clear()
        with VlmServer(script=("429",), retry_after=header, reply=lambda text: "{}") as server:
            ask(settings(server.url))
        assert least <= max(waits) <= most
    assert [module._seconds(header) for header in (None, "soon", "nan", "-1")] == [None, None, None, 0]
    with VlmServer(script=("429",), retry_after="86400") as server:
        (error,), *_ = ask(settings(server.url))
    assert "86,400 s" in str(error)
    assert server.account.requests == 1


def test_a_reply_that_trickles_is_given_up() -> None:
    class Slow(VlmServer):
        async def _stream(self, *arguments: Any) -> Any:
            async for piece in super()._stream(*arguments):
                await asyncio.sleep(0.15)  # always something, never all
                yield piece

    with Slow(reply=lambda text: "words " * 60) as server:
        (error,), _, budget = ask(settings(server.url, timeout=0.4, retries=1, stream=True))
    assert "no answer in 2 tries" in str(error)
    assert budget.lost_calls == 2


def test_a_cap_is_used_up_before_it_is_called_reached() -> None:
    """What is reserved for requests under way is far more than they turn out to take."""
    with VlmServer(latency=0.002, reply=lambda text: "{}") as server:
        calls, *_ = ask(settings(server.url, max_tokens=500, in_flight=32), 200)
    spent = server.account.tokens_in + server.account.tokens_out
    assert sum(isinstance(one, BudgetError) for one in calls) == 200 - server.account.replies
    assert 500 - 150 < spent <= 500  # one request may take about 120


def test_a_reservation_that_nobody_settles_does_not_hold_up_for_ever() -> None:
    """As of a worker that died."""
    budget = settings("http://h/v1", max_tokens=100, timeout=0.05).budget()

    async def work() -> None:
        await budget.reserve(Reservation(50, 40))
        with pytest.raises(BudgetError, match="cap of 100 tokens"):
            await budget.reserve(Reservation(50, 40))

    asyncio.run(work())


def test_what_was_lost_counts_in_later_runs(tmp_path) -> None:
    with VlmServer(script=("cut", "cut_before"), reply=lambda text: "{}") as server:
        one = settings(server.url)
        with Journal(tmp_path, {}) as journal:
            (reply,), _, budget = ask(one, budget=journal_budget(one, journal))
            journal.save_reply("k", reply)
            assert budget.lost_calls == 2
            assert journal.lost() == (2, *journal.lost()[1:])
        with Journal(tmp_path, {}) as journal:
            again = journal_budget(one, journal)
            assert (again.lost_calls, again.lost_cost) == (2, pytest.approx(budget.lost_cost))
            lost = sum(journal.lost()[1:3])
            capped = settings(server.url, max_tokens=lost + 50)
            (error,), *_ = ask(capped, budget=journal_budget(capped, journal))
    assert isinstance(error, BudgetError)


def test_requests_in_flight_at_a_kill_are_on_the_account(tmp_path) -> None:
    """As the journal of a killed process: nothing closed them."""
    with VlmServer(reply=lambda text: "{}") as server:
        one = settings(server.url, currency="EUR")
        with Journal(tmp_path, {}) as journal:
            budget = journal_budget(one, journal)
            asyncio.run(budget.reserve(Reservation(1000, 500)))
            asyncio.run(budget.reserve(Reservation(1000, 500)))
            asyncio.run(budget.release(Reservation(1, 1)))  # of another one
            assert journal.killed()[0] == 0
        with Journal(tmp_path, {}) as journal:
            assert journal.killed() == (2, 2000, 1000, pytest.approx(0.014))
            assert journal.account()[1:] == [
                "2 requests at most were in flight at a kill and may have been billed: at most 0.0140 EUR more"
            ]
            capped = settings(server.url, currency="EUR", max_cost=0.0145)
            (error,), *_ = ask(capped, budget=journal_budget(capped, journal))
    assert "the cap of 0.0145 EUR is reached: 0.0000 EUR are spent, at most 0.0140 EUR may have" in str(error)
    assert server.account.requests == 0


def test_a_saved_reply_is_no_longer_in_flight(tmp_path) -> None:
    with VlmServer(script=("cut", "500"), reply=lambda text: "{}") as server:
        one = settings(server.url)
        with Journal(tmp_path, {}) as journal:
            (reply,), *_ = ask(one, budget=journal_budget(one, journal))
            assert [row[0] for row in journal._db.execute("SELECT ticket FROM in_flight")] == [reply.ticket]
            journal.save_reply("k", reply)
        with Journal(tmp_path, {}) as journal:
            assert (journal.killed()[0], journal.lost()[0], journal.spent()[0]) == (0, 1, 1)


def test_the_message_of_a_cap_counts_what_is_in_flight() -> None:
    budget = settings("http://h/v1", max_cost=0.25, currency="EUR", timeout=0.01).budget(cost=0.2, lost_cost=0.02)

    async def work() -> None:
        await budget.reserve(Reservation(5000, 1000))
        with pytest.raises(BudgetError, match=r"0\.2000 EUR are spent.* 0\.0200 EUR may have.* 0\.0200 EUR may be"):
            await budget.reserve(Reservation(5000, 1000))

    asyncio.run(work())


def test_a_gateway_that_timed_out_may_have_been_billed() -> None:
    error = json.dumps({"error": {"message": "upstream"}})
    with replying(
        (504, "application/json", error), (500, "application/json", error), (200, "application/json", whole())
    ) as url:
        _, client, budget = ask(settings(url))
    assert (client.retries, budget.lost_calls) == (2, 1)


def test_a_lost_reply_leaves_no_room_for_another_try() -> None:
    with VlmServer(rates={"cut": 1.0}, reply=lambda text: "{}") as server:
        (error,), _, budget = ask(settings(server.url, max_tokens=200))
    assert isinstance(error, BudgetError)
    assert (server.account.requests, budget.lost_calls) == (1, 1)
    assert budget.lost_tokens <= 200


def test_what_is_dropped_on_the_way_counts_as_lost() -> None:
    with VlmServer(latency=0.5) as server:
        one = settings(server.url)
        budget = one.budget()

        async def work() -> None:
            async with ChatClient(one, budget) as client:
                task = asyncio.create_task(client.ask([{"role": "user", "content": "x"}], SCHEMA))
                while not server.account.requests:
                    await asyncio.sleep(0.005)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(work())
    assert budget.lost_calls == 1
    assert budget._reserved == 0


def test_a_server_that_counts_more_than_expected_is_believed() -> None:
    body = whole(usage={"prompt_tokens": 5000, "completion_tokens": 2, "total_tokens": 5002})
    with replying((200, "application/json", body)) as url:
        calls, _, budget = ask(settings(url, stream=False, max_tokens=50_000), 100)
    assert sum(not isinstance(one, Exception) for one in calls) == 9
    assert budget.tokens <= 50_000


def test_a_rate_is_kept(monkeypatch) -> None:
    """By a clock of its own."""
    now = [100.0]

    async def later(seconds: float) -> None:
        now[0] += seconds

    async def taken(pace: RateLimiter, *amounts: float) -> list[float]:
        times = []
        for amount in amounts:
            await pace.take(amount)
            times.append(round(now[0], 6))
        return times

    monkeypatch.setattr("pixellm.utils.budget.asyncio.sleep", later)
    assert asyncio.run(taken(RateLimiter(60, clock=lambda: now[0]), 1, 1, 1)) == [100, 101, 102]
    pace = RateLimiter(60, 1.0, lambda: now[0])
    assert asyncio.run(taken(pace, 1, 1, 1)) == [102, 102, 103]
    assert asyncio.run(taken(pace, 120, 1)) == [104, 224]  # more than a minute's worth
    pace.correct(+10)
    assert asyncio.run(taken(pace, 1)) == [235]
    pace.correct(-100)
    assert asyncio.run(taken(pace, 1, 1, 1)) == [235, 235, 236]
    assert asyncio.run(taken(RateLimiter(None), 1e9, 1e9)) == [236, 236]


def test_tokens_per_minute_are_those_that_were_used() -> None:
    class Recorded(RateLimiter):
        passed = 0.0

        async def take(self, amount: float) -> None:
            self.passed += amount

        def correct(self, difference: float) -> None:
            self.passed += difference

    with replying((200, "application/json", whole())) as url:  # 7 tokens each
        one = settings(url, stream=False)

        async def work() -> float:
            async with ChatClient(one, one.budget()) as client:
                client._tokens = Recorded(None)
                for i in range(20):
                    await client.ask([{"role": "user", "content": f"{i} x"}], SCHEMA)
                return client._tokens.passed

        assert asyncio.run(work()) == pytest.approx(20 * 7)


@pytest.mark.parametrize("name", ["max_cost", "timeout", "requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_would_switch_a_limit_off(name, value) -> None:
    with pytest.raises(ValueError, match=name):
        settings("http://h/v1", **{name: value})


@pytest.mark.parametrize("url", ["https://me:secret@h/v1", "https://h/v1?key=secret", "localhost:80", "ftp://h"])
def test_addresses_with_secrets_or_without_a_host(url) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        settings(url)
    assert "secret" not in str(raised.value)
