"""The review's server: what it shows, saves and refuses."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from skimage.draw import polygon2mask

from pixellm.imaging import masks
from pixellm.muse.journal import Journal
from pixellm.muse.review import Review, create_app, reworded
from pixellm.muse.view import outline, pieces, view
from pixellm.utils.sockets import listen
from tests.support import muse_examples

RECORDS = muse_examples.RECORDS
FIRST = RECORDS[0]
HOSTS = ["127.0.0.1", "localhost"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return muse_examples.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def directory(tmp_path):
    return muse_examples.write_journal(tmp_path / "journal")


@pytest.fixture
def client(directory, images):
    with Journal(directory) as journal:
        yield TestClient(create_app(Review(journal, images), HOSTS), base_url="http://127.0.0.1")


def words(record) -> dict:
    return {
        "question": record.question,
        "text": record.text,
        "descriptions": [target.description for target in record.targets],
    }


def filled(path: str, height: int, width: int) -> np.ndarray:
    """An SVG path of straight lines drawn by the even-odd rule, with another library than made it."""
    mask = np.zeros((height, width), dtype=bool)
    for ring in re.findall(r"M([^Z]+)Z", path):
        points = np.array([[float(v) for v in point.split()] for point in ring.split("L")])
        mask ^= polygon2mask((height, width), points[:, ::-1] - 0.5)
    return mask


def test_outlines_hold_the_mask() -> None:
    rows, columns = np.mgrid[:90, :140]
    radius = np.hypot(rows - 40, columns - 60)
    ring = (radius < 38) & (radius > 12)
    ring[80:85, 100:140] = True  # a second part, up to the edge
    drawn = filled(outline(ring), 90, 140)
    assert (drawn & ring).sum() / (drawn | ring).sum() > 0.97
    assert not drawn[40, 60]
    assert outline(np.zeros((5, 5), dtype=bool)) == ""
    assert outline(np.ones((4, 6), dtype=bool)).count("M") == 1


def test_pieces_cut_phrases_out() -> None:
    parts = pieces(FIRST)
    assert [part["text"] for part in parts if part["target"] is not None] == [t.description for t in FIRST.targets]
    assert "".join(part["text"] for part in parts) == FIRST.text.replace(" {seg}", "")
    capital = replace(FIRST, text="The red and white cup in the middle{seg}, a ladle {seg}, {seg}")
    found = [(part["text"], part["target"]) for part in pieces(capital)]
    assert found == [("The red and white cup in the middle", 0), (", a ladle", None), ("", 1), (",", None), ("", 2)]
    assert [target["named"] for target in view(capital)["targets"]] == [True, False, False]


def test_a_mask_that_cannot_be_read_is_reported() -> None:
    broken = replace(FIRST.targets[0], segmentation={"size": [1, 2], "counts": "01"})
    shown = view(replace(FIRST, targets=(broken, *FIRST.targets[1:])))["targets"]
    assert "400×600" in shown[0]["error"]
    assert shown[0]["path"] == ""
    assert shown[1]["error"] is None
    assert shown[1]["share"] == pytest.approx(FIRST.targets[1].area / 240_000)


def test_walk(client) -> None:
    def find(**query) -> str | None:
        answer = client.get("/api/find", params=query)
        return answer.json()["record_id"] if answer.status_code == 200 else None

    assert find() == "1/0"
    assert find(beside="1/0") == "1/1"
    assert find(beside="2/0") is None
    assert find(beside="2/0", step=-1) == "1/1"
    client.put("/api/verdicts/1/1", json={"verdict": "reject"})
    assert find(show="undecided", beside="1/0") == "2/0"
    assert find(show="undecided", beside="2/0", step=-1) == "1/0"
    assert find(show="reject") == "1/1"
    assert find(show="keep") is None
    assert client.get("/api/records/2/0").json()["counts"] == {"all": 3, "undecided": 2, "keep": 0, "reject": 1}
    assert client.get("/api/records/9/9").status_code == 404
    for unknown in ("9/9", ""):
        assert client.get("/api/find", params={"beside": unknown}).status_code == 404
    assert client.get("/api/find", params={"show": "nonsense"}).status_code == 422


def test_decisions_are_in_the_journal(client, directory, images) -> None:
    assert client.put("/api/verdicts/1/0", json={"verdict": "keep"}).json()["verdict"] == "keep"
    assert client.put("/api/verdicts/1/1", json={"verdict": "reject"}).status_code == 200
    assert client.put("/api/verdicts/2/0", json={"verdict": "keep"}).status_code == 200
    assert client.put("/api/verdicts/2/0", json={"verdict": None}).json()["verdict"] is None
    assert client.put("/api/verdicts/2/0", json={"verdict": "maybe"}).status_code == 422
    assert client.put("/api/verdicts/9/9", json={"verdict": "keep"}).status_code == 404
    with pytest.raises(ValueError, match="another process"):  # while it is reviewed
        Journal(directory)


def test_what_was_decided_is_there_the_next_time(directory, images) -> None:
    changed = words(FIRST) | {"question": "  Where do I stir? "}
    with Journal(directory) as journal:
        review = Review(journal, images)
        review.edit("1/0", **changed)
        review.decide("1/0", "reject")
        review.decide("1/1", "keep")
    with Journal(directory) as journal:
        assert journal.reviews() == {"1/0": "reject", "1/1": "keep"}
        assert list(journal.records()) == RECORDS[1:]
        review = Review(journal, images)
        shown = review.show("1/0")
        assert (shown["question"], shown["edited"], shown["verdict"]) == ("Where do I stir?", True, "reject")
        review.decide("1/0", "keep")
        assert next(journal.records()).question == "Where do I stir?"
        review.decide("1/0", None)
        assert list(journal.records()) == RECORDS
        assert journal.reviews() == {"1/1": "keep"}


def test_edit(client) -> None:
    changed = words(FIRST) | {"text": "Take {seg}, {seg}, {seg}.", "descriptions": ["a", "b", "c"]}
    shown = client.put("/api/records/1/0", json=changed).json()
    assert (shown["verdict"], shown["edited"], shown["text"]) == ("keep", True, "Take {seg}, {seg}, {seg}.")
    assert [target["description"] for target in shown["targets"]] == ["a", "b", "c"]
    assert [target["category"] for target in shown["targets"]] == ["cup", "spoon", "saucer"]
    assert client.put("/api/records/1/0", json=words(FIRST)).json()["edited"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "expected a question"),
        ({"question": "\ud800"}, "half a surrogate pair"),  # saved, it would hide the record for good
        ({"text": "Only {seg} and {seg}."}, r"expected 3 \{seg\} in the answer, one for each target, got 2"),
        ({"text": "{seg}{seg}{seg}{seg}"}, "got 4"),
        ({"descriptions": ["a", "b", " "]}, "expected words for each of 3 targets, got 2"),
        ({"descriptions": ["a", "b"]}, "expected words for each of 3 targets, got 2"),
        ({"descriptions": ["a", "b", "c", "d"]}, "expected words for each of 3 targets, got 4"),
    ],
)
def test_a_wrong_edit_is_refused(client, change, message) -> None:
    body, headers = json.dumps(words(FIRST) | change), {"Content-Type": "application/json"}
    answer = client.put("/api/records/1/0", content=body, headers=headers)
    assert answer.status_code == 422
    assert re.search(message, answer.json()["detail"])
    shown = client.get("/api/records/1/0").json()
    assert (shown["text"], shown["verdict"], shown["edited"]) == (FIRST.text, None, False)


def test_photograph(client) -> None:
    answer = client.get("/api/images/1/0")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (600, 400)


@pytest.mark.parametrize("name", ["../secret.png", "people/../../secret.png", "{absolute}", "..\x00/secret.png"])
def test_nothing_outside_the_folder_is_shown(tmp_path, name) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (600, 400)).save(tmp_path / "secret.png")
    name = name.format(absolute=tmp_path / "secret.png")
    record = replace(FIRST, image=replace(FIRST.image, file_name=name))
    with Journal(muse_examples.write_journal(tmp_path / "journal", [record])) as journal:
        client = TestClient(create_app(Review(journal, folder), HOSTS), base_url="http://127.0.0.1")
        answer = client.get("/api/images/1/0")
    assert answer.status_code == 422
    assert "expected" in answer.json()["detail"]


@pytest.mark.parametrize("size", [(400, 600), (600, 401)])
def test_a_photograph_of_another_size_is_refused(tmp_path, size) -> None:
    Image.new("RGB", size).save(tmp_path / "coffee.png")
    directory = muse_examples.write_journal(tmp_path / "journal", RECORDS[:1])
    with Journal(directory) as journal, pytest.raises(ValueError, match="expected 600×400 pixels, got"):
        Review(journal, tmp_path).jpeg("1/0")


def test_only_this_computer_and_only_the_page(client) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:8765"}).status_code == 200
    headers = client.get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    preflight = {"origin": "http://evil.example", "access-control-request-method": "PUT"}
    assert "access-control-allow-origin" not in client.options("/api/verdicts/1/0", headers=preflight).headers
    assert client.post("/api/verdicts/1/0", json={"verdict": "keep"}).status_code == 405
    for path in ("/../review.py", "/%2e%2e/review.py", "/..%2freview.py", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 404


def test_the_page_loads_nothing_from_elsewhere(client) -> None:
    page = client.get("/").text
    names = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {"page.js", "page.css"} <= set(names)
    for name in names:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        outside = set(re.findall(r"https?://[^\s\"']+", answer.text)) - {"http://www.w3.org/2000/svg"}
        assert not outside


def test_reworded_keeps_the_rest() -> None:
    assert reworded(FIRST, **words(FIRST)) == FIRST


def test_a_taken_port_is_one_line() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ValueError, match="Give another --port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_example_masks_are_apart() -> None:
    """The saucer has a hole where the cup stands, so that its outline has one, too."""
    cup, saucer = (masks.decode(t.segmentation, 400, 600) for t in (FIRST.targets[0], FIRST.targets[2]))
    assert not (cup & saucer).any()
    assert outline(saucer).count("M") > 1
