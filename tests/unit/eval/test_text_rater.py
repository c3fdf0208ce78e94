"""Ratings of words: by rule, and by a server that speaks OpenAI's protocol."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pixellm.eval.text_rater import OfflineRater, PairText, modified_answer
from pixellm.eval.text_server import MAX_OUTPUT, SYSTEM, ServerRater, _prompt, _rating
from pixellm.utils.budget import Budget
from pixellm.utils.openai_client import MESSAGE_TOKENS
from tests.support import cases
from tests.support.cases import answer, pixels, question


def pair(phrase: str, description: str = "the red cup on the shelf", category: str = "cup") -> PairText:
    return PairText("What is there?", f"{phrase}.", phrase, description, category, (1, 2, 3, 4), (30, 40))


@pytest.mark.parametrize(
    ("phrase", "rating"),
    [
        ("the cup", 10),
        ("two Cups", 10),
        ("a plate", 1),
        ("", 1),
        ("the red thing", 1 + round(9 * 2 * 1 / (2 + 3))),  # red of red, thing and red, cup, shelf
        ("red one, shelf", 1 + round(9 * 2 * 2 / (3 + 3))),
    ],
)
def test_offline(phrase, rating):
    assert OfflineRater().rate([pair(phrase)]) == [rating]


def test_offline_knows_synonyms_and_names_of_several_words():
    rater = OfflineRater()
    assert rater.rate([pair("the sofa", "what one sits on", "couch")]) == [10]
    assert rater.rate([pair("a glass for wine", "", "wine_glass")]) == [10]
    assert rater.rate([pair("the cup", "drinking vessel", "cup_(tea)")]) == [10]
    assert rater.rate([pair("the hot dog", "an animal", "dog")]) == [10]  # its word is there; a model knows better


def muse(phrases):
    asked = [question([pixels(0, 1), pixels(5, 6)], names=["cup", "jug"])]
    return asked, [answer([pixels(5, 6), pixels(0, 1, 2)], phrases=phrases)]


def test_paper_protocol_takes_the_intersection_of_what_is_misnamed():
    named = cases.scored(*muse(["the jug", "the cup"]), protocol="paper")
    assert named.overall.values["giou"] == pytest.approx((1 + 2 / 3) / 2)
    misnamed = cases.scored(*muse(["the lamp", "the cup"]), protocol="paper")
    assert misnamed.overall.values["giou"] == pytest.approx((0 + 2 / 3) / 2)
    assert misnamed.overall.values["ciou"] == pytest.approx((0 + 2) / (2 + 3))  # the union stays
    assert [one.rating for one in misnamed.scored[0].pairs] == [10, 1]
    assert cases.scored(*muse(["the lamp", "the cup"])).overall.values["giou"] == pytest.approx((1 + 2 / 3) / 2)


def test_the_threshold_is_half_of_ten():
    class Rates:
        @property
        def fingerprint(self):
            return {"rater": "fixed numbers"}

        def rate(self, pairs):
            return [5, 4][: len(pairs)]

    report = cases.scored(*muse(["a", "b"]), protocol="paper", rater=Rates())
    assert [one.iou for one in report.scored[0].pairs] == [pytest.approx(2 / 3), 0]
    assert report.to_json()["rated_by"] == {"rater": "fixed numbers"}


def test_modified_answer():
    report = cases.scored(*muse(["A vase", "this"]))
    assert modified_answer(report.scored[0]) == "A vase (the jug there), this (the cup there), "


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("7", 7),
        ("Rating: 10", 10),
        ("8/10", 8),
        ("8 / 10.", 8),
        ("<think>maybe 3</think> 9", 9),
        ("It is a 6.", 6),
        ("7.6", 8),
    ],
)
def test_replies(reply, rating):
    assert _rating(reply) == rating


@pytest.mark.parametrize("reply", ["", "none", "0", "11", "-3"])
def test_replies_without_a_rating(reply):
    assert _rating(reply) is None


class Server(ThreadingHTTPServer):
    """Answers /v1/chat/completions: one status after another, then 200 with `reply`."""

    def __init__(self, statuses=(), reply="8", tokens=50):
        self.statuses, self.reply, self.tokens, self.bodies = list(statuses), reply, tokens, []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append((self.path, body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        message = {"role": "assistant", "content": self.server.reply}
        content = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        content["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        content["usage"] = {"prompt_tokens": self.server.tokens, "completion_tokens": 0}
        content["usage"]["total_tokens"] = self.server.tokens
        payload = json.dumps(content if status == 200 else {"error": {"message": "not now"}}).encode()
        self.send_response(status)
        self.send_header("Retry-After-Ms", "1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(*of, **settings):
        servers.append(Server(*of, **settings))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_server_is_asked_and_a_refusal_retried(serve, tmp_path):
    server = serve([429, 503])
    rater = ServerRater("judge", server.url, tmp_path / "ratings.jsonl")
    assert rater.rate([pair("the cup")]) == [8]
    assert len(server.bodies) == 3
    path, body = server.bodies[-1]
    assert (path, body["model"], body["temperature"]) == ("/v1/chat/completions", "judge", 0)
    asked = body["messages"][1]["content"]
    assert "the cup" in asked
    assert "the red cup on the shelf" in asked
    assert rater.fingerprint == {"rater": "judge", "version": 1, "calls": 1, "tokens": 50, "unreadable replies": 0}


def test_what_is_rated_is_not_asked_again(serve, tmp_path):
    server, cache = serve(), tmp_path / "ratings.jsonl"
    ServerRater("judge", server.url, cache).rate([pair("the cup"), pair("the cup"), pair("the jug")])
    assert len(server.bodies) == 2
    with cache.open("a") as file:
        file.write('{"key": "cut o')
    again = ServerRater("judge", server.url, cache, Budget(max_calls=1))
    assert again.rate([pair("the jug"), pair("the cup")]) == [8, 8]
    assert len(server.bodies) == 2
    again.rate([pair("a plate")])
    assert len(server.bodies) == 3
    assert ServerRater("judge", server.url, cache, Budget(max_calls=0)).rate([pair("a plate")]) == [8]
    with pytest.raises(ValueError, match="cap of 0 calls"):
        ServerRater("another", server.url, cache, Budget(max_calls=0)).rate([pair("a plate")])


@pytest.mark.parametrize("cap", ["calls", "tokens"])
def test_a_budget_that_is_used_up_ends_it_and_keeps_what_there_is(serve, tmp_path, cap):
    server, pairs = serve(), [pair(f"thing {number}") for number in range(5)]
    prompts = len(SYSTEM.encode()) + len(_prompt(pairs[0]).encode()) + 2 * MESSAGE_TOKENS
    # Room for a third request is missing once two have taken 50 tokens each.
    budget = Budget(max_calls=2) if cap == "calls" else Budget(max_tokens=prompts + MAX_OUTPUT + 99)
    with pytest.raises(ValueError, match=rf"the cap of .* {cap} is reached.*Ratings so far are kept"):
        ServerRater("judge", server.url, tmp_path / "r.jsonl", budget).rate(pairs)
    assert len(server.bodies) == 2
    assert ServerRater("judge", server.url, tmp_path / "r.jsonl", Budget(max_calls=3)).rate(pairs) == [8] * 5
    assert len(server.bodies) == 5


def test_a_server_that_refuses(serve):
    with pytest.raises(ValueError, match=r"expected a rating from judge at http.*got Error code: 401"):
        ServerRater("judge", serve([401]).url).rate([pair("the cup")])


def test_a_reply_without_a_rating_counts_as_the_worst_and_is_asked_for_again(serve, tmp_path):
    server, cache = serve(reply="no idea"), tmp_path / "ratings.jsonl"
    rater = ServerRater("judge", server.url, cache)
    assert rater.rate([pair("the cup")]) == [1]
    assert rater.fingerprint["unreadable replies"] == 1
    server.reply = "9"
    assert ServerRater("judge", server.url, cache).rate([pair("the cup")]) == [9]


def test_no_server():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pixellm.utils.openai_client.FIRST_WAIT", 0.001)
        with pytest.raises(
            ValueError, match=r"expected a rating from judge at http://127\.0\.0\.1:9/v1, got none: .* no connection"
        ):
            ServerRater("judge", "http://127.0.0.1:9/v1").rate([pair("the cup")])
