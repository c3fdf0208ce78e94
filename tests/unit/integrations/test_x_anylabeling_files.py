"""X-AnyLabeling's label files: checked ones are sent with the masks of their labels; all others are not."""

import base64
import json

import numpy as np
import pytest

from pixellm import cli
from pixellm.export.outlines import polygons
from pixellm.imaging import masks
from tests.support.colours import flag, flag_file, mask_of
from tests.support.stub_server import KEPT, sent_image, stub_server


@pytest.fixture
def stub():
    with stub_server() as running:
        running[1].extend([KEPT] * 9)
        yield running


def shapes(mask, label, kind="polygon"):
    """As X-AnyLabeling 4.2.1 saves them, the fields that matter."""
    rings = [ring.astype(float).tolist() for ring in polygons(mask, centres=True)]
    return [{"label": label, "score": None, "points": ring, "group_id": 1, "shape_type": kind} for ring in rings]


def write(folder, name, found, checked=True, image_data=None, **fields):
    content = {"version": "4.2.1", "flags": {}, "checked": checked, "shapes": found, "imagePath": "flag.png"}
    content |= {"imageData": image_data, "imageHeight": 30, "imageWidth": 40, "description": "", **fields}
    (folder / f"{name}.json").write_text(json.dumps(content))


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["pixellm", "corrections", "x-anylabeling", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_checked_images_are_sent(stub, tmp_path, monkeypatch, capsys):
    url, _, seen = stub
    flag().save(tmp_path / "flag.png")
    red, green = mask_of(flag(), "red"), mask_of(flag(), "green")
    hollow = green.copy()
    hollow[20:22, 10:20] = False  # a hole, joined to the edge by a cut
    split = red.copy()
    split[:, 8:10] = False  # two polygons
    write(tmp_path, "a", [*shapes(split, "red"), *shapes(hollow, "cup"), *shapes(green, "box", "rectangle")])
    write(tmp_path, "b", shapes(red, "red"), image_data=base64.b64encode(flag_file()).decode(), imagePath="gone.png")
    write(tmp_path, "c", shapes(red, "red"), checked=False)
    write(tmp_path, "d", shapes(red, "red"), checked="failed")
    write(tmp_path, "e", [])
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": []}')
    assert run(monkeypatch, tmp_path, "--server", url, "--user", "ann") == 0
    assert "3 corrections of 3 images kept; 2 are not checked" in capsys.readouterr().out
    bodies = [body for _, _, body in seen]
    assert [body["phrase"] for body in bodies] == ["red", "cup", "red"]
    for body, mask in zip(bodies, (split, hollow, red), strict=True):
        assert np.array_equal(masks.decode(body["segmentation"], 30, 40), mask)
        assert (body["tool"], body["user"]) == ("x-anylabeling", "ann")
        assert sent_image(body).tobytes() == flag().tobytes()


def test_images_elsewhere(stub, tmp_path, monkeypatch, capsys):
    url, _, seen = stub
    labels, images = tmp_path / "labels", tmp_path / "images"
    for folder in (labels, images):
        folder.mkdir()
    flag().save(images / "flag.png")
    write(labels, "a", shapes(mask_of(flag(), "red"), "red"), imagePath="..\\somewhere\\flag.png")
    assert run(monkeypatch, labels, "--server", url) == 2
    assert "Give its folder: --images" in " ".join(capsys.readouterr().err.split())
    assert run(monkeypatch, labels, "--server", url, "--images", images) == 0
    assert [body["phrase"] for _, _, body in seen] == ["red"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"imageHeight": None}, "at least one pixel"),
        ({"shapes": [{"label": "a", "shape_type": "polygon", "points": [[1, 2]]}]}, "at least 3 points"),
        (
            {"shapes": [{"label": "a", "shape_type": "polygon", "points": [["x", 2]] * 3}]},
            "label file of X-AnyLabeling",
        ),
        ({"shapes": [{"shape_type": "polygon", "points": [[1, 2]] * 3}]}, "'label'"),
        ({"image_data": "no image!"}, "in the imageData"),
    ],
)
def test_broken_files(stub, tmp_path, monkeypatch, capsys, fields, message):
    url, _, seen = stub
    write(tmp_path, "a", **{"found": shapes(mask_of(flag(), "red"), "red")} | fields)
    assert run(monkeypatch, tmp_path, "--server", url) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "a.json" in error
    assert not seen


def test_nothing_there_and_a_server_that_refuses(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, tmp_path) == 2
    assert "Save the annotations there" in " ".join(capsys.readouterr().err.split())
    flag().save(tmp_path / "flag.png")
    write(tmp_path, "a", shapes(mask_of(flag(), "red"), "red"))
    with stub_server() as (url, answers, _):
        answers.append((404, '{"error": {"message": "Not Found"}}'))
        assert run(monkeypatch, tmp_path, "--server", url) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "a.json, red: expected" in error
    assert "pixellm serve --corrections DIR" in error
    (tmp_path / "b.json").write_text("{")
    assert run(monkeypatch, tmp_path) == 2
    assert "expected JSON in" in capsys.readouterr().err
