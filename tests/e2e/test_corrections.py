"""Corrections sent to a server: kept once, replaced by the same key alone, refused when wrong, trained on."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pixellm import cli
from pixellm.data.corrections import Correction
from pixellm.imaging import masks
from pixellm.integrations.remote import RemoteSegmenter
from pixellm.segmenter import load
from tests.support import serving
from tests.support.serving import KEY, MODEL, OTHER_KEY

QUESTION = "Where is the dog?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return serving.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "corrections"


@pytest.fixture(scope="module")
def server(model, folder):
    options = ("--corrections", str(folder), "--max-corrections-mb", "1", "--page")
    with serving.serving(model, *options, keys=(KEY, OTHER_KEY)) as running:
        yield running


def noise(side: int) -> bytes:
    """PNG that takes as many bytes as its pixels."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def square(left: int, width: int = 60) -> dict:
    mask = np.zeros((40, width), dtype=bool)
    mask[5:20, left : left + 10] = True
    return dict(masks.encode(mask))


def send(server, key=KEY, image=None, **fields):
    body = {"image": serving.data_uri(image or serving.png()), "phrase": "the dog", "segmentation": square(5)}
    return server.http.post("/v1/corrections", json=body | fields, headers={"Authorization": f"Bearer {key}"})


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "corrections.jsonl").read_text().splitlines()]


def test_corrections_are_kept(server, folder, model):
    origin = {"before": square(8), "answer": "The dog.", "tool": "page", "user": "ann"}
    first = send(server, **origin).json()
    (row,) = rows(folder)
    assert first == {"id": row["id"], "image": row["image"], "replaced": False}
    assert (row["question"], row["answer"], row["masks"]) == ("Segment the dog.", "The dog {seg}.", [square(5)])
    kept = row["correction"]
    assert {name: kept[name] for name in origin} == origin
    assert (kept["model"], kept["checkpoint"], kept["added"], kept["removed"]) == (MODEL, str(model), 45, 45)
    assert send(server, segmentation=square(20)).json() == first | {"replaced": True}
    form = {"request": json.dumps({"phrase": "cat", "segmentation": square(30), "question": QUESTION})}
    uploaded = server.http.post("/v1/corrections", data=form, files={"image": ("a.png", serving.png(), "image/png")})
    assert uploaded.json()["image"] == first["image"]  # the same pixels
    assert [row["masks"][0] for row in rows(folder)] == [square(20), square(30)]
    assert rows(folder)[1]["question"] == QUESTION
    assert server.http.get("/web/about.json").json()["corrections"] is True


def test_the_description(server, folder):
    description = server.http.get("/openapi.json").json()
    operation = description["paths"]["/v1/corrections"]["post"]
    assert {"200", "400", "413", "507"} <= operation["responses"].keys()
    body = operation["requestBody"]["content"]["application/json"]
    assert body["schema"]["$ref"].rsplit("/", 1)[1] in description["components"]["schemas"]
    response = server.http.post("/v1/corrections", json=body["examples"]["example"]["value"])
    assert (response.status_code, response.json().keys()) == (200, {"id", "image", "replaced"})


def test_one_tenants_corrections_are_not_known_to_another(server, folder):
    phrase = "a bird"
    send(server, phrase=phrase)
    other = send(server, OTHER_KEY, phrase=phrase, segmentation=square(30))
    assert other.json()["replaced"] is False
    found = [row for row in rows(folder) if row["correction"]["phrase"] == phrase]
    assert [row["masks"][0] for row in found] == [square(5), square(30)]
    assert len({row["correction"]["owner"] for row in found}) == 2
    assert KEY not in (folder / "corrections.jsonl").read_text()


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"key": "wrong"}, 401, "API key"),
        ({"phrase": " "}, 400, "expected words of the target, got an empty phrase"),
        ({"phrase": "the {seg}"}, 400, "without {seg}"),
        ({"phrase": "d" * 3000}, 400, "2,000 characters"),
        ({"answer": "d" * 9000}, 400, "8,000 characters"),
        ({"tool": "d" * 300}, 400, "tool"),
        ({"segmentation": square(5, width=61)}, 400, "expected a mask of 40×60"),
        ({"segmentation": {"size": [40, 60], "counts": "no"}}, 400, "counts"),
        ({"before": square(5, width=61)}, 400, "expected a mask of 40×60"),
        ({"segmentation": None}, 400, "segmentation"),
        ({"image": b"no image"}, 400, "image"),
        ({"image": noise(700), "segmentation": dict(masks.as_text(masks.empty(700, 700)))}, 507, "room"),
    ],
)
def test_errors(server, folder, fields, status, message):
    send(server)
    before = (folder / "corrections.jsonl").read_bytes()
    response = send(server, **fields)
    assert (response.status_code, message in response.json()["error"]["message"]) == (status, True), response.text
    assert (folder / "corrections.jsonl").read_bytes() == before


def test_the_client_of_all_tools(server, folder):
    before, mask = square(8), square(5)
    correction = Correction("the lamp", mask, before, question="Is it lit?", tool="some tool", user="eve")
    stored = RemoteSegmenter(server.url, key=OTHER_KEY).send_correction(correction, serving.png())
    (row,) = [row for row in rows(folder) if row["id"] == stored["id"]]
    assert (row["question"], row["masks"]) == ("Is it lit?", [mask])
    assert [row["correction"][name] for name in ("tool", "user", "before")] == ["some tool", "eve", before]


def test_training_takes_the_file(server, folder, tmp_path, monkeypatch, capsys, timm_model, timm_processor):
    send(server, phrase="the cat", segmentation=dict(masks.as_text(masks.empty(40, 60))))
    for seed in (1, 2):
        send(server, image=serving.png(seed=seed))
    for part in (timm_model, timm_processor):
        part.save_pretrained(tmp_path / "start")
    file = folder / "corrections.jsonl"
    train = ["train", "--data", file, "--steps", 1, "--model", tmp_path / "start", "--out", tmp_path / "run"]
    for arguments in (["data", "check", file], train):
        monkeypatch.setattr("sys.argv", ["pixellm", *map(str, arguments)])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    assert "bad records                0" in capsys.readouterr().out
    before, after = (load(tmp_path / name).model.state_dict() for name in ("start", "run/model"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_nothing_is_kept_by_default(model):
    with serving.serving(model, ready=False) as running:
        assert send(running).status_code == 404
