"""Client of an OpenAI-compatible server, over real HTTP, while the server fails."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pixellm.utils import openai_client as module
from pixellm.utils.budget import BudgetError, Price
from pixellm.utils.openai_client import ChatClient, RefusedError, UnreachableError
from pixellm.utils.server_settings import ServerSettings
from tests.support.vlm_server import VlmServer

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
PRICE = Price(input=2, output=10)
KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)


def said(text: str) -> str:
    return json.dumps({"n": len(text), "words": "of a reply that is long enough to come in several pieces of a stream"})


def messages(number: int) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": [{"type": "text", "text": f"{number} x"}]},
    ]


class BudgetedClient(ChatClient):
    """Client with its budget."""

    def __init__(self, settings: ServerSettings, **spent: Any) -> None:
        self.budget = settings.budget(**spent)
        super().__init__(settings, self.budget)


def ask(server: VlmServer, count: int = 1, **changes: Any) -> tuple[BudgetedClient, list[Any]]:
    """Asks `count` different things at once."""
    settings = ServerSettings(
        **({"model": "vlm", "url": server.url, "prices": {"vlm": PRICE}, "max_output": 100} | changes)
    )

    async def work() -> tuple[BudgetedClient, list[Any]]:
        async with BudgetedClient(settings) as client:
            jobs = [client.ask(messages(i), SCHEMA) for i in range(count)]
            answers = await asyncio.gather(*jobs, return_exceptions=True)
            return client, answers

    return asyncio.run(work())


def accounts_agree(server: VlmServer, client: BudgetedClient, calls: list[Any]) -> bool:
    """The client's tokens and costs are those of the server, for every reply that came whole."""
    tokens = sum(one.tokens_in for one in calls), sum(one.tokens_out for one in calls)
    cost = PRICE.cost(*tokens)
    return (
        tokens == (server.account.tokens_in, server.account.tokens_out)
        and client.budget.cost == pytest.approx(cost, rel=1e-12)
        and sum(one.cost for one in calls) == pytest.approx(cost, rel=1e-12)
        and client.budget._reserved == 0
    )


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply(stream) -> None:
    with VlmServer(reply=said) as server:
        client, (call,) = ask(server, stream=stream, temperature=0.2)
    assert json.loads(call.text)["n"] == len("Count.\n0 x")
    assert (call.tokens_in, call.tokens_out) == (3, len(call.text.split()))
    assert accounts_agree(server, client, [call])
    (body,) = server.bodies
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert (body["max_completion_tokens"], body["temperature"]) == (100, 0.2)


@pytest.mark.parametrize("fault", ["408", "429", "500", "503", "cut", "cut_before"])
@pytest.mark.parametrize("stream", [True, False])
def test_what_passes_is_tried_again(fault, stream) -> None:
    with VlmServer(script=(fault, fault), reply=said) as server:
        client, (call,) = ask(server, stream=stream)
    assert server.account.requests == 3
    assert client.retries == 2
    assert accounts_agree(server, client, [call])
    lost = 2 * fault.startswith("cut")
    assert client.budget.lost_calls == lost
    assert (client.budget.lost_cost > 0) == bool(lost)


def test_the_server_says_how_long_to_wait(monkeypatch) -> None:
    waits = []
    monkeypatch.setattr(asyncio, "sleep", _recorded(waits, asyncio.sleep))
    with VlmServer(script=("429", "503"), retry_after="7", reply=said) as server:
        ask(server)
    assert [round(wait) for wait in waits if wait > 1] == [7, 7]


def _recorded(waits: list[float], sleep: Any) -> Any:
    async def instead(seconds: float, *more: Any) -> None:
        waits.append(seconds)
        await sleep(0, *more)

    return instead


def test_in_the_end_it_is_given_up() -> None:
    with VlmServer(rates={"500": 1.0}) as server:
        client, (error,) = ask(server, retries=3)
    assert isinstance(error, ValueError)
    assert "no answer in 4 tries: status 500" in str(error)
    assert server.account.requests == 4
    assert client.budget._reserved == 0
    _, (error,) = ask(server, retries=1)  # nobody listens there any more
    assert "no connection" in str(error)
    assert isinstance(error, UnreachableError)


def test_a_server_that_is_not_there_is_asked_by_one_request_only() -> None:
    with VlmServer() as server:
        pass
    client, errors = ask(server, 5, retries=3)
    assert all(isinstance(error, UnreachableError) for error in errors)
    assert client.retries == 3
    assert client.budget._reserved == 0


def test_too_slow_is_tried_again() -> None:
    with VlmServer(latency=5, reply=said) as server:
        client, (error,) = ask(server, timeout=0.2, retries=1)
    assert "no answer in 2 tries" in str(error)
    assert client.budget.lost_calls == 2


def test_a_wrong_key_ends_it_and_the_key_is_never_told(monkeypatch, caplog, tmp_path) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with VlmServer(key="another") as server:
        client, (error,) = ask(server)
        assert isinstance(error, RefusedError)
        assert server.account.requests == 1
    assert KEY not in f"{error!r}{client.settings!r}{vars(client)!r}"
    assert KEY not in "".join(f"{record.name}{record.getMessage()}" for record in caplog.records)
    with VlmServer(key="from-file", reply=said) as server:
        (tmp_path / "key").write_text("from-file\n")
        _, (call,) = ask(server, key_file=tmp_path / "key")
        assert call.text
    for content in ("", "two words"):
        (tmp_path / "key").write_text(content)
        with pytest.raises(ValueError, match="expected a file that holds one key") as caught:
            ask(server, key_file=tmp_path / "key")
        assert "two words" not in str(caught.value)
    with pytest.raises(ValueError, match="expected a file that holds a key"):
        ask(server, key_file=tmp_path / "none")


def test_older_servers_are_asked_in_their_way(caplog) -> None:
    with VlmServer(structured=False, new_limit=False, usage=False, reply=said) as server:
        _client, calls = ask(server, 5, in_flight=1)
        assert all(json.loads(one.text)["n"] for one in calls)
        assert server.account.requests == 5 + 2  # found out once
    last = server.bodies[-1]
    assert last["max_tokens"] == 100
    assert "response_format" not in last
    assert json.dumps(SCHEMA) in last["messages"][0]["content"]
    assert all(one.tokens_in >= 3 for one in calls)
    assert sum("costs are estimates" in record.getMessage() for record in caplog.records) == 1


def test_older_servers_are_asked_in_their_way_by_many_at_once() -> None:
    with VlmServer(structured=False, new_limit=False, latency=0.02, reply=said) as server:
        _, calls = ask(server, 20, in_flight=20)
    assert all(json.loads(one.text)["n"] for one in calls)


@pytest.mark.parametrize("stream", [True, False])
def test_refusals_and_replies_that_are_cut_off(stream, caplog) -> None:
    with VlmServer(script=("refusal", "length"), reply=said) as server:
        client, calls = ask(server, 2, in_flight=1, stream=stream)
    assert json.loads(calls[0].text) == {"refusal": "I would rather not."}
    assert calls[1].text == said("Count.\n1 x")[:-20]
    assert accounts_agree(server, client, calls)
    assert "raise max_output" in caplog.text


@pytest.mark.parametrize("stream", [True, False])
def test_accounts_are_exact_through_all_faults(stream) -> None:
    rates = {"429": 0.1, "500": 0.1, "503": 0.05, "408": 0.05, "cut": 0.1, "cut_before": 0.05}
    with VlmServer(rates, seed=3, reply=said) as server:
        client, calls = ask(server, 200, in_flight=32, stream=stream, retries=20)
    assert [json.loads(one.text)["n"] for one in calls] == [len(f"Count.\n{i} x") for i in range(200)]
    assert accounts_agree(server, client, calls)
    assert server.account.replies == 200
    assert set(server.account.answered.values()) == {1}
    assert client.budget.lost_calls == server.account.faults["cut"] + server.account.faults["cut_before"]
    assert server.account.most_at_once <= 32


def test_caps_are_never_exceeded() -> None:
    with VlmServer(latency=0.005, reply=said) as server:
        client, calls = ask(server, 200, in_flight=32, max_cost=0.02)
    done = [one for one in calls if not isinstance(one, Exception)]
    assert all(isinstance(one, BudgetError) for one in calls if isinstance(one, Exception))
    assert 0 < len(done) < 200
    assert accounts_agree(server, client, done)
    assert PRICE.cost(server.account.tokens_in, server.account.tokens_out) <= 0.02
    with VlmServer(reply=said) as server:
        _, calls = ask(server, 50, max_tokens=1000)
    assert 0 < server.account.tokens_in + server.account.tokens_out <= 1000
    assert any("Raise --max-tokens" in str(one) for one in calls)


def test_what_was_spent_before_counts() -> None:
    settings = ServerSettings(model="vlm", prices={"vlm": PRICE}, max_cost=1.0)

    async def work() -> None:
        async with BudgetedClient(settings, tokens=10, cost=0.99999) as client:
            await client.ask(messages(1), SCHEMA)

    with pytest.raises(BudgetError, match=r"cap of 1 USD is reached: 1\.0000 USD are spent"):
        asyncio.run(work())


def test_limits_per_minute_are_kept() -> None:
    with VlmServer(reply=said) as server:
        ask(server, 6, requests_per_minute=1200)
        gaps = [b - a for a, b in zip(server.account.times, server.account.times[1:], strict=False)]
        assert sum(gaps) >= 0.2  # 5 waits of 0.05 s


def test_settings_of_a_file(tmp_path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("model: m\nin_flight: 3\nprices: {m: {input: 1, output: 2.5}}\nmax_cost: 4\n")
    found = ServerSettings.read(file, in_flight=5, url=None)
    assert (found.model, found.in_flight, found.max_cost, found.price) == ("m", 5, 4, Price(input=1, output=2.5))
    assert found.price.cost(1_000_000, 2_000_000) == 6.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\nmodels: m", "models: there is no such setting"),
        ("in_flight: 3", "expected the name of a model"),
        ("model: m\nin_flight: many", "in_flight: input should be a valid integer, got 'many'"),
        ("model: m\nin_flight: true", "in_flight: input should be a valid integer"),
        ("model: m\nin_flight: 0", "in_flight: input should be greater than 0, got 0"),
        ("model: m\nmax_cost: 1", "expected a price of m for a cap on cost"),
        ("model: m\nprices: {m: 3}", "prices.m: input should be a valid dictionary or instance of Price"),
        ("model: m\nprices: {m: {input: -1, output: 3}}", "prices.m.input: input should be greater than or equal to 0"),
        ("- m", "expected a table of settings"),
        ("model: [", "expected YAML"),
    ],
)
def test_settings_that_are_wrong(tmp_path, text, message) -> None:
    file: Path = tmp_path / "server.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        ServerSettings.read(file)
