"""API keys, images, chats and formats of requests."""

import asyncio
import io
import json

import pytest
from PIL import Image

from pixellm.serve import image_decoder, responses
from pixellm.serve.authentication import ANONYMOUS, ApiKeys, load_api_keys
from pixellm.serve.chat import ChatQuestion, parse_chat
from pixellm.serve.errors import ApiError
from pixellm.serve.image_decoder import DecodedImage, ImageDecoder, decode_data_uri
from pixellm.serve.messages import PastTurn
from pixellm.serve.schema import ChatRequest
from pixellm.serve.settings import ServeSettings
from tests.support import serving, tiny

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


def decode(data: bytes, max_pixels: int = 10_000) -> DecodedImage:
    async def run():
        async with ImageDecoder(max_pixels, 3 * max_pixels).decode(data) as image:
            return image

    return asyncio.run(run())


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_the_same_pixels_have_the_same_digest():
    image = Image.new("RGB", (20, 10), "red")
    one, same = decode(encoded(image)), decode(encoded(image, "WEBP", lossless=True))
    assert one.digest == same.digest
    assert one.to_pil().tobytes() == image.tobytes()
    assert decode(encoded(image.resize((10, 20)))).digest != one.digest  # the same bytes in another shape


@pytest.mark.parametrize("size", [(101, 100), (5000, 5000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_not_decoded(size, monkeypatch):
    monkeypatch.setattr(image_decoder, "_decode", lambda data: pytest.fail("decoded"))
    with pytest.raises(ApiError) as caught:
        decode(serving.bomb(*size))
    assert caught.value.status in (400, 413)


def test_other_files_are_no_images():
    good = encoded(tiny.picture(50, 50))
    tiff = encoded(Image.new("RGB", (5, 5)), "TIFF")
    for data in (b"", b"hello", good[:60], good[: len(good) // 2], tiff, b"<svg/>", bytes(1000), b"%!PS-Adobe\n"):
        with pytest.raises(ApiError) as caught:
            decode(data)
        assert caught.value.status == 400


def test_only_so_many_pixels_are_held_at_once():
    data = encoded(Image.new("RGB", (100, 100)))

    async def run():
        decoder = ImageDecoder(10_000, 60_000)  # two of them
        holding, most = 0, 0
        leave = asyncio.Event()

        async def hold():
            nonlocal holding, most
            async with decoder.decode(data):
                holding += 1
                most = max(most, holding)
                await leave.wait()
                holding -= 1

        tasks = [asyncio.create_task(hold()) for _ in range(5)]
        await asyncio.sleep(0.3)
        tasks[-1].cancel()  # while it waits
        before = most
        leave.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with decoder.decode(data):
            return before, most, decoder._free_bytes

    assert asyncio.run(run()) == (2, 2, 30_000)


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
