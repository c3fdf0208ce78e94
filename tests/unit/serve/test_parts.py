"""API keys, images, chats and formats of requests."""

import json

import pytest

from pixellm.serve import responses
from pixellm.serve.authentication import ANONYMOUS, ApiKeys, load_api_keys
from pixellm.serve.chat import ChatQuestion, parse_chat
from pixellm.serve.errors import ApiError
from pixellm.serve.image_decoder import decode_data_uri
from pixellm.serve.messages import PastTurn
from pixellm.serve.schema import ChatRequest
from pixellm.serve.settings import ServeSettings
from tests.support import serving

SETTINGS = ServeSettings("tiny", max_turns=3, max_question_chars=50, max_answer_chars=60, max_chat_chars=150)


# --- API keys ---


def test_keys_from_environment_and_file(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{serving.KEY}  # of the first\n\n")
    monkeypatch.setenv("PIXELLM_API_KEYS", f"{serving.OTHER_KEY},")
    for key in (serving.KEY, serving.OTHER_KEY):
        assert load_api_keys(file).authenticate(f"Bearer {key}") != ANONYMOUS
    monkeypatch.delenv("PIXELLM_API_KEYS")
    assert not load_api_keys(None)
    with pytest.raises(ApiError):
        load_api_keys(file).authenticate(f"Bearer {serving.OTHER_KEY}")
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match="got none"):
        load_api_keys(file)
    file.write_text("short\n")
    with pytest.raises(ValueError, match="at least 16 characters") as caught:
        load_api_keys(file)
    assert "short\n" not in str(caught.value)
    for odd in ("schlüssel-des-ersten".encode(), b"\xff" * 20, b"with a control\x07character"):
        file.write_bytes(odd)
        with pytest.raises(ValueError, match="printable ASCII characters"):
            load_api_keys(file)
    file.write_bytes(b"\xef\xbb\xbf" + serving.KEY.encode())  # as Windows' editor writes it
    assert load_api_keys(file).authenticate(f"Bearer {serving.KEY}") != ANONYMOUS


def test_tenants_of_keys():
    keys = ApiKeys([serving.KEY, serving.OTHER_KEY])
    first, other = keys.authenticate(f"Bearer {serving.KEY}"), keys.authenticate(f"bearer  {serving.OTHER_KEY}")
    assert first
    assert other
    assert first != other
    assert serving.KEY not in first
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        serving.KEY,
        f"Basic {serving.KEY}",
        f"Bearer {serving.KEY}x",
        "Bearer ü",
    ):
        with pytest.raises(ApiError) as caught:
            keys.authenticate(wrong)
        assert caught.value.status == 401
    assert ApiKeys().authenticate(None) == ANONYMOUS
    assert not ApiKeys()


# --- images ---


def test_data_uris():
    data = serving.png()
    uri = serving.data_uri(data)
    assert decode_data_uri(uri) == data
    assert decode_data_uri(uri.replace("image/png", "image/svg+xml;charset=utf-8")) == data
    for wrong in (
        "data:,x",
        "data:text/html;base64,aGk=",
        f"{uri}!",
        "data:image/png;base64,a",
        uri.replace("base64,", ""),
    ):
        with pytest.raises(ApiError):
            decode_data_uri(wrong)


# --- chats ---


def read(*messages, settings=SETTINGS):
    request = ChatRequest.model_validate_json(json.dumps({"model": "m", "messages": messages}))
    return parse_chat(request.messages, settings)


def user(*content):
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def image(url="data:x"):
    return {"type": "image_url", "image_url": {"url": url}}


def text(words):
    return {"type": "text", "text": words}


def said(words, *spans):
    return {"role": "assistant", "content": words, "targets": [{"span": list(span), "area": 5} for span in spans]}


def test_a_chat_of_two_turns():
    found = read(
        {"role": "system", "content": "Be brief."},
        user(image(), text("one"), text("two")),
        said("the dog", (0, 7)),
        user("and?"),
    )
    assert found == ChatQuestion("and?", "data:x", "Be brief.", (PastTurn("one\ntwo", "the dog", ((0, 7),)),))


def test_an_image_that_is_repeated_is_one():
    assert read(user(image(), text("a")), said("b"), user(image(), text("c"))).image_url == "data:x"
    assert read(user("a")).image_url is None


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([user(image("a"), image("b"), text("c"))], "one image"),
        ([said("a"), user("b")], "in turns"),
        ([user("a"), user("b")], "in turns"),
        ([user("a"), said("b")], "at the end"),
        ([{"role": "system", "content": "a"}], "at the end"),
        ([user(image(), text("  "))], "empty"),
        ([user("x" * 51)], "at most 50"),
        ([user("a"), said("b"), user("x" * 51), said("b"), user("a")], "at most 50"),
        ([user("a"), said("x" * 61), user("a")], "earlier answers of at most 60"),
        ([{"role": "system", "content": "x" * 50}] * 3 + [user("a")], "a conversation of at most 150"),
        ([user("x" * 50), said("x" * 60), user("x" * 41)], "a conversation of at most 150"),
        ([user("a"), said("b", (0, 2)), user("c")], "spans"),
        ([user("a"), said("b", (1, 0)), user("c")], "spans"),
        ([user("a"), said("b")] * 3 + [user("c")], "at most 3"),
    ],
)
def test_other_chats(messages, match):
    with pytest.raises(ApiError, match=match) as caught:
        read(*messages)
    assert caught.value.status == 400


# --- formats ---


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, responses.JSON),
        ("*/*", responses.JSON),
        ("application/json", responses.JSON),
        ("image/png", responses.PNG),
        ("image/*", responses.PNG),
        ("text/html, image/png;q=0.5, application/vnd.coco+json;q=0.6", responses.COCO),
        ("application/json;q=0, */*;q=0.1", responses.PNG),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", responses.JSON),  # Java's HttpURLConnection
    ],
)
def test_formats(accept, expected):
    assert responses.negotiate(accept) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/webp", "application/json;q=0", "image/png;q=x"])
def test_formats_that_are_not_there(accept):
    with pytest.raises(ApiError) as caught:
        responses.negotiate(accept)
    assert caught.value.status == 406


def test_a_minimum_score_is_a_number_from_0_to_1():
    assert ServeSettings("tiny", min_score=0.5).min_score == 0.5
    with pytest.raises(ValueError, match=r"expected a min_score in 0\.\.1, got 2"):
        ServeSettings("tiny", min_score=2)
