"""The MCP server, asked by the stock client in memory."""

import base64
import io

import anyio
import numpy as np
import pytest
from PIL import Image

from pixellm.imaging import masks
from pixellm.integrations.remote import RemoteSegmenter
from tests.support.colours import ColourSegmenter, flag, mask_of
from tests.support.stub_server import sent_image, stub_server

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from mcp.client import Client

from pixellm.integrations.mcp_server import SHOWN_SIDE, SegmenterThread, create_server


@pytest.fixture
def segmenter():
    return ColourSegmenter()


@pytest.fixture
def image(tmp_path):
    flag().save(tmp_path / "flag.png")
    return str(tmp_path / "flag.png")


def call(segmenter, tool, arguments, roots=(), out=None):
    """Call one tool, or several: lists of them."""

    async def calls():
        load = segmenter if callable(segmenter) else lambda: segmenter
        async with Client(create_server(SegmenterThread(load, roots), out)) as client:
            if isinstance(tool, str):
                return await client.call_tool(tool, arguments)
            return [await client.call_tool(*each) for each in zip(tool, arguments, strict=True)]

    return anyio.run(calls)


def pictures(result):
    return [Image.open(io.BytesIO(base64.b64decode(block.data))) for block in result.content if block.type == "image"]


def test_tools_and_their_schemas(segmenter):
    async def listed():
        async with Client(create_server(SegmenterThread(lambda: segmenter))) as client:
            return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in anyio.run(listed)}
    assert list(tools) == ["ask", "segment", "refine", "cut_out"]
    assert tools["ask"].input_schema["required"] == ["image", "question"]
    assert set(tools["segment"].output_schema["properties"]) == {"width", "height", "targets"}
    assert all(tool.annotations.read_only_hint for tool in tools.values())


def test_ask(segmenter, image):
    result = call(segmenter, "ask", {"image": image, "question": "Where are red and green?"})
    assert not result.is_error
    assert result.content[0].text.splitlines() == [
        "the red and the green",
        "the red: box x=0 y=0 width=20 height=10, 200 px, score 0.90",
        "the green: box x=5 y=15 width=30 height=15, 450 px, score 0.60",
    ]
    first = {"phrase": "the red", "box": [0, 0, 20, 10], "area": 200, "score": 0.9, "presence": None}
    assert result.structured_content["targets"][0] == first
    (picture,) = pictures(result)
    assert (picture.format, picture.size) == ("JPEG", (40, 30))


def test_pictures_of_large_images_are_scaled_down(segmenter, tmp_path):
    flag(1600, 800).save(tmp_path / "large.png")
    large = {"image": str(tmp_path / "large.png")}
    asked, cut = call(
        segmenter, ["ask", "cut_out"], [large | {"question": "red"}, large | {"phrase": "green"}], out=tmp_path
    )
    assert pictures(asked)[0].size == (SHOWN_SIDE, SHOWN_SIDE // 2)
    assert max(pictures(cut)[0].size) == SHOWN_SIDE
    assert Image.open(cut.structured_content["cut_outs"][0]["file"]).size == (1590, 400)  # the file is not


def test_segment(segmenter, image):
    result = call(segmenter, "segment", {"image": image, "phrases": ["red", "the blue"]})
    found = result.structured_content["targets"]
    assert segmenter.questions == ["Segment the red.", "Segment the blue."]
    assert np.array_equal(masks.decode(found["red"][0]["segmentation"], 30, 40), mask_of(flag(), "red"))
    assert found["the blue"] == []
    assert "the blue: not found" in result.content[0].text


def test_cut_out(segmenter, image, tmp_path):
    out = tmp_path / "out"
    results = call(segmenter, ["cut_out"] * 2, [{"image": image, "phrase": "green"}] * 2, out=out)
    for result in results:
        (picture,) = pictures(result)
        assert (picture.mode, picture.size) == ("RGBA", (30, 15))
        assert (np.asarray(picture) == (0, 255, 0, 255)).all()
    files = [result.structured_content["cut_outs"][0]["file"] for result in results]
    assert files == [str(out / "flag-cut-out-1.png"), str(out / "flag-cut-out-2.png")]  # none is overwritten
    assert np.array_equal(np.asarray(Image.open(files[0])), np.asarray(picture))


def test_alpha_is_the_mask(tmp_path):
    """A colour in two places: what lies between them in its box is transparent."""
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[1, [1, 4]] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "two.png")
    result = call(ColourSegmenter(), "cut_out", {"image": str(tmp_path / "two.png"), "phrase": "red"})
    assert np.asarray(pictures(result)[0])[..., 3].tolist() == [[255, 0, 0, 255]]
    assert result.structured_content["cut_outs"][0]["file"] is None


def test_refine(segmenter, image):
    """A mask of segment goes back with points; the corrected one again."""
    segmented = call(segmenter, "segment", {"image": image, "phrases": ["red"]})
    red = segmented.structured_content["targets"]["red"][0]["segmentation"]
    both = call(segmenter, "refine", {"image": image, "segmentation": red, "points": [[10, 20, 1]], "phrase": "red"})
    assert not both.is_error
    found = both.structured_content["target"]
    union = mask_of(flag(), "red") | mask_of(flag(), "green")
    assert np.array_equal(masks.decode(found["segmentation"], 30, 40), union)
    assert (found["phrase"], found["area"], found["score"]) == ("red", 650, 0.8)
    assert both.content[0].text == "red: box x=0 y=0 width=35 height=30, 650 px, score 0.80"
    assert pictures(both)[0].size == (40, 30)
    again = {"image": image, "segmentation": found["segmentation"], "points": [[1, 1, 0]], "box": [0, 0, 40, 20]}
    found = call(segmenter, "refine", again).structured_content["target"]
    expected = mask_of(flag(), "green")
    expected[20:] = False
    assert np.array_equal(masks.decode(found["segmentation"], 30, 40), expected)


def test_refine_begins_with_nothing_where_no_mask_is_given(segmenter, image):
    found = call(segmenter, "refine", {"image": image, "points": [[1, 1, 1]]}).structured_content["target"]
    assert np.array_equal(masks.decode(found["segmentation"], 30, 40), mask_of(flag(), "red"))


@pytest.fixture
def stub():
    with stub_server() as running:
        yield running


def save(url, **given):
    async def saved():
        thread = SegmenterThread(lambda: RemoteSegmenter(url))
        async with Client(create_server(thread, keeps=True)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            hints = tools["save_correction"].annotations
            assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint) == (False, True, True)
            return await client.call_tool("save_correction", given)

    return anyio.run(saved)


def test_a_correction_is_saved(stub, image):
    url, answers, seen = stub
    answers.append((200, '{"id": "7", "image": "images/7.png", "replaced": true}'))
    red, green = (dict(masks.encode(mask_of(flag(), colour))) for colour in ("red", "green"))
    result = save(url, image=image, phrase="red", segmentation=red, before=green, question="Where is red?")
    assert not result.is_error
    assert result.structured_content == {"id": "7", "image": "images/7.png", "replaced": True}
    assert result.content[0].text == "red: kept in place of an earlier one"
    ((path, _, body),) = seen
    assert path == "/v1/corrections"
    assert sent_image(body).tobytes() == flag().tobytes()
    assert (body["segmentation"], body["before"]) == (red, green)
    assert (body["phrase"], body["question"], body["tool"]) == ("red", "Where is red?", "mcp")


def test_corrections_that_are_not_saved(stub, image):
    url, answers, seen = stub
    red = dict(masks.encode(mask_of(flag(), "red")))
    size = save(url, image=image, phrase="red", segmentation={"size": [3, 4], "counts": "<"})
    words = save(url, image=image, phrase=" ", segmentation=red)
    assert not seen
    answers.append((404, '{"error": {"message": "Not Found"}}'))
    none = save(url, image=image, phrase="red", segmentation=red)
    assert all(result.is_error for result in (size, words, none))
    assert "30×40" in size.content[0].text
    assert "pixellm serve --corrections DIR" in none.content[0].text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": [[1, 1]]}, "points"),
        ({"points": [[1, 1, 1]], "segmentation": {"size": [3, 4], "counts": "0"}}, "30×40"),
    ],
)
def test_wrong_refinements(segmenter, image, given, message):
    result = call(segmenter, "refine", {"image": image, **given})
    assert result.is_error
    assert message in result.content[0].text


def test_nothing_there(segmenter, image):
    result = call(segmenter, "cut_out", {"image": image, "phrase": "blue"})
    assert not result.is_error
    assert result.content[0].text == "blue: not found"
    assert len(result.content) == 1


def test_min_score(segmenter, image):
    asked = {"image": image, "question": "red and green", "min_score": 0.7}
    result = call(segmenter, "ask", asked)
    assert [target["phrase"] for target in result.structured_content["targets"]] == ["the red"]


def test_an_image_is_encoded_once_until_its_file_changes(segmenter, image):
    question = {"image": image, "question": "red"}

    async def calls():
        async with Client(create_server(SegmenterThread(lambda: segmenter))) as client:
            for _ in range(3):
                await client.call_tool("ask", question)
            assert segmenter.encoded == 1
            flag(60, 60).save(image)
            result = await client.call_tool("ask", question)
            assert (segmenter.encoded, result.structured_content["width"]) == (2, 60)

    anyio.run(calls)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/x.png", "does not exist"),
        ("https://example.org/x.png", "Download it first"),
        ("example:nothing", "Examples: "),
    ],
)
def test_a_bad_image_is_an_error_that_says_what_to_do(segmenter, source, message):
    result = call(segmenter, "ask", {"image": source, "question": "red"})
    assert result.is_error
    assert message in result.content[0].text


def test_file_uris(segmenter, tmp_path):
    path = tmp_path / "a b.png"
    flag().save(path)
    assert not call(segmenter, "ask", {"image": path.as_uri(), "question": "red"}).is_error


def test_roots_confine_what_is_read(segmenter, image, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    flag().save(inside / "flag.png")
    (inside / "link.png").symlink_to(image)
    sources = [str(inside / "flag.png"), image, str(inside / "link.png"), f"{inside}/../flag.png"]
    results = call(segmenter, ["ask"] * 4, [{"image": s, "question": "red"} for s in sources], roots=[inside])
    assert [result.is_error for result in results] == [False, True, True, True]
    assert "expected an image below" in results[1].content[0].text


def test_a_model_that_cannot_be_loaded_is_an_error_of_each_question(image):
    def load():
        raise ValueError("expected the name of a model, got 'nothing'.")

    result = call(load, "ask", {"image": image, "question": "red"})
    assert result.is_error
    assert "expected the name of a model" in result.content[0].text
