"""Answers in other tools' formats, read back by these tools."""

import json
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from pixellm.data.jsonl import read_jsonl
from pixellm.data.reasoning import read_muse
from pixellm.export.answers import by_image, read_answers, with_slots
from pixellm.export.coco import coco_file
from pixellm.export.formats import export
from pixellm.export.outlines import iou
from pixellm.imaging import masks
from pixellm.imaging.overlay import supervision
from pixellm.muse.validate import LayoutValidator
from pixellm.types import Answer, Target
from tests.support import exports, tiny

sv = supervision()

IMAGES = 20  # of the real ones


@pytest.fixture
def answers(tmp_path):
    return read_answers(exports.predictions(tmp_path))


def everything() -> list[np.ndarray]:
    return list(chain(*exports.wanted().values()))


def same(found, expected) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def coco_masks(path: Path) -> list[np.ndarray]:
    """As pycocotools reads them."""
    read = COCO(str(path))
    return [read.annToMask(one).astype(bool) for one in read.loadAnns(read.getAnnIds())]


@pytest.mark.parametrize("tolerance", [None, 0.0])
def test_coco(answers, tmp_path, tolerance):
    done = export(answers, "coco", tmp_path / "coco.json", tolerance)
    assert (done.images, done.masks, done.empty, set(done.ious)) == (2, 4, 1, set() if tolerance is None else {1.0})
    assert same(coco_masks(tmp_path / "coco.json"), everything())
    read = COCO(str(tmp_path / "coco.json"))
    assert [one["file_name"] for one in read.imgs.values()] == ["a/cat.png", "b/cat.png"]
    assert [one["name"] for one in read.cats.values()] == ["black ring", "box", "parts"]
    ring = read.anns[1]
    assert (ring["phrase"], ring["score"], ring["answer_id"]) == ("The black ring", 0.5, "a/cat/0")
    assert (ring["area"], ring["bbox"]) == (12 * 12 - 36, [2, 2, 12, 12])
    assert isinstance(ring["segmentation"], dict if tolerance is None else list)


def test_the_score_is_the_presence_score_where_there_is_one():
    given = answer(("the ring", exports.RING), ("a box", exports.PLAIN))
    ring, box = given.targets
    named = replace(given, image_path="x.png", targets=(ring, replace(box, presence=0.2)))
    content, _ = coco_file(by_image([named]))
    assert [row["score"] for row in content["annotations"]] == [0.75, 0.2]
    assert named.to_detections().confidence.tolist() == pytest.approx([0.75, 0.2])


def test_near_equal_masks_of_several_questions_are_one(tmp_path):
    """The one with the highest score stays, whatever it is called; others are left as they are."""
    larger = exports.PLAIN | exports.rectangle(3, 30, 18, 31)
    first, second = answer(("a box", exports.PLAIN), ("a ring", exports.RING)), answer(("the crate", larger))
    (target,) = second.targets
    answers = [
        replace(first, image_path="x.png"),
        replace(second, image_path="x.png", targets=(replace(target, score=1.0),)),
    ]
    other = replace(first, image_path="y.png")
    done = export([*answers, other], "coco", tmp_path / "out.json", merge_iou=0.9)
    assert (done.images, done.masks, done.merged) == (2, 4, 1)
    content = json.loads((tmp_path / "out.json").read_text())
    assert [row["phrase"] for row in content["annotations"]] == ["a ring", "the crate", "a box", "a ring"]
    assert export(answers, "coco", tmp_path / "all.json", merge_iou=0.99).merged == 0
    with pytest.raises(ValueError, match="expected a format of masks alone, got muse"):
        export(answers, "muse", tmp_path / "muse.json", merge_iou=0.9)


@pytest.mark.parametrize("to", ["coco", "lvis", "muse"])
def test_area_and_box_are_those_of_the_polygons(tmp_path, to):
    found = answer(("a disc", np.hypot(*(np.indices((exports.HEIGHT, exports.WIDTH)) - 14)) < 9))
    done = export([replace(found, image_path="x.png")], to, tmp_path / "out.json", 2.0)
    assert done.ious[0] < 1
    content = json.loads((tmp_path / "out.json").read_text())
    (row,) = content[0]["ann_list"] if to == "muse" else content["annotations"]
    written = masks.decode(row["segmentation"], exports.HEIGHT, exports.WIDTH)
    assert (row["area"], row["bbox"]) == (written.sum(), list(masks.bounding_box(written)))


def test_coco_read_by_supervision(answers, tmp_path):
    export(answers, "coco", tmp_path / "coco.json")
    read = sv.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "coco.json"), force_masks=True)
    found = {Path(path).relative_to(tmp_path).with_suffix("").as_posix(): one for path, _, one in read}
    assert all(same(found[name].mask, expected) for name, expected in exports.wanted().items())
    assert [read.classes[one] for one in found["a/cat"].class_id] == ["black ring", "box", "parts"]


def test_lvis(answers, tmp_path):
    export(answers, "lvis", tmp_path / "lvis.json")
    assert same(coco_masks(tmp_path / "lvis.json"), everything())
    content = json.loads((tmp_path / "lvis.json").read_text())
    assert all(isinstance(one["segmentation"], list) for one in content["annotations"])
    ring, _, parts = content["categories"]
    assert (ring["name"], ring["frequency"], ring["image_count"]) == ("black_ring", "r", 1)
    assert (parts["image_count"], parts["instance_count"]) == (2, 2)
    assert content["images"][0]["not_exhaustive_category_ids"] == [1, 2, 3]
    assert content["images"][0]["coco_url"].endswith("/a/cat.png")


def test_lvis_has_the_fields_of_the_published_one(answers, tmp_path, shared):
    export(answers, "lvis", tmp_path / "lvis.json")
    ours = json.loads((tmp_path / "lvis.json").read_text())
    theirs = json.loads((shared / "data" / "coco_480" / "lvis_val.json").read_text())
    optional = {"images": {"flickr_url", "license", "date_captured"}}
    for part in ("images", "annotations", "categories"):
        assert ours[part][0].keys() | optional.get(part, set()) == theirs[part][0].keys()


def test_lvis_read_by_lvis(answers, tmp_path):
    lvis = pytest.importorskip("lvis", reason="lvis is not installed (docs/decisions/exports.md)")
    export(answers, "lvis", tmp_path / "lvis.json")
    read = lvis.LVIS(str(tmp_path / "lvis.json"))
    found = [read.ann_to_mask(one).astype(bool) for one in read.load_anns(sorted(read.get_ann_ids()))]
    assert same(found, everything())


def labelme_masks(path: Path) -> list[np.ndarray]:
    """As labelme fills them, `labelme.utils.shape_to_mask`; shapes of one group are one mask."""
    content = json.loads(path.read_text())
    found: dict[int, np.ndarray] = {}
    for shape in content["shapes"]:
        canvas = Image.new("L", (content["imageWidth"], content["imageHeight"]))
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
        drawn = np.asarray(canvas).astype(bool)
        found[shape["group_id"]] = found.get(shape["group_id"], np.zeros_like(drawn)) | drawn
    return list(found.values())


def test_labelme(answers, tmp_path):
    done = export(answers, "labelme", tmp_path / "out")
    assert set(done.ious) == {1.0}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cat.json", "cat.png", "cat-2.json", "cat-2.png"}
    for name, expected in {"cat": exports.wanted()["a/cat"], "cat-2": exports.wanted()["b/cat"]}.items():
        assert same(labelme_masks(tmp_path / "out" / f"{name}.json"), expected)
    content = json.loads((tmp_path / "out" / "cat.json").read_text())
    assert content["imagePath"] == "cat.png"
    assert exports.pixels(tmp_path / "out" / "cat.png").shape[:2] == (content["imageHeight"], content["imageWidth"])
    assert (content["shapes"][0]["label"], content["shapes"][0]["description"]) == ("black ring", "The black ring")


def test_labelme_read_by_supervision(answers, tmp_path):
    out = tmp_path / "out"
    export(answers, "labelme", out)
    read = sv.DetectionDataset.from_labelme(str(out), str(out), force_masks=True)
    found = {Path(path).stem: one.mask for path, _, one in read}
    assert same(found["cat"], exports.wanted()["a/cat"])
    assert same(found["cat-2"], exports.wanted()["b/cat"])


def yolo_masks(out: Path, truncated: bool = False) -> dict[str, list[np.ndarray]]:
    """As supervision reads them; `truncated`: filled at whole numbers cut off, as Ultralytics does."""
    if not truncated:
        folders = (str(out / "images"), str(out / "labels"), str(out / "data.yaml"))
        return {Path(path).stem: list(one.mask) for path, _, one in sv.DetectionDataset.from_yolo(*folders)}
    found = {}
    for path in sorted((out / "labels").iterdir()):
        with Image.open(next((out / "images").glob(f"{path.stem}.*"))) as image:
            size = image.size
        lines = [np.array(line.split()[1:], dtype=np.float32).reshape(-1, 2) for line in path.read_text().splitlines()]
        found[path.stem] = [sv.polygon_to_mask((one * size).astype(np.int32), size).astype(bool) for one in lines]
    return found


@pytest.mark.parametrize("truncated", [False, True])
def test_yolo(answers, tmp_path, truncated):
    out = tmp_path / "out"
    done = export(answers, "yolo-seg", out)
    assert (out / "data.yaml").read_text().endswith('names:\n  0: "black ring"\n  1: "box"\n  2: "parts"\n')
    assert [line.split()[0] for line in (out / "labels" / "cat.txt").read_text().splitlines()] == ["0", "1", "2"]
    found = yolo_masks(out, truncated)
    ring, plain, parts = exports.wanted()["a/cat"]
    assert same(found["cat"][:2], [ring, plain])
    lost = found["cat"][2] & ~parts
    assert 0 < lost.sum() < 40  # two lines that tie the parts together
    assert (found["cat"][2] | parts).sum() == found["cat"][2].sum()
    assert min(done.ious) == iou(parts, found["cat"][2])
    assert done.ious[:2] == (1.0, 1.0)


def test_png_is_what_training_reads(answers, tmp_path):
    out = tmp_path / "somewhere" / "out"
    export(answers, "png", out)
    names = {"cat-1_black-ring.png", "cat-2_box.png", "cat-3_parts.png", "cat-2-1_parts.png", "answers.jsonl"}
    assert {path.name for path in out.iterdir()} == names
    read = list(read_jsonl(out / "answers.jsonl"))
    assert [exchange.answer for one in read for exchange in one.exchanges] == [
        "The black ring {seg}, a box {seg}, nothing.",
        "the parts {seg}.",
        "the parts {seg}.",
        "There is none.",
    ]
    hw = (exports.HEIGHT, exports.WIDTH)
    found = [instance.mask.decode(*hw) for one in read for exchange in one.exchanges for instance in exchange.targets]
    assert same(found, everything())
    assert all(one.image.is_file() for one in read)


def test_cutout(answers, tmp_path):
    export(answers, "cutout", tmp_path / "out")
    cut = exports.pixels(tmp_path / "out" / "cat-1_black-ring.png")
    photograph = exports.pixels(tmp_path / "a" / "cat.png")
    assert cut.shape == (12, 12, 4)
    assert np.array_equal(cut[..., 3] == 255, exports.RING[2:14, 2:14])
    assert np.array_equal(cut[..., :3], photograph[2:14, 2:14])


@pytest.mark.parametrize("tolerance", [None, 0.0])
def test_muse(answers, tmp_path, tolerance):
    done = export(answers, "muse", tmp_path / "muse.json", tolerance)
    assert (done.images, done.masks, done.unusable) == (2, 4, 1)
    entries = json.loads((tmp_path / "muse.json").read_text())
    validator = LayoutValidator(tmp_path)
    assert not [fault for number, one in enumerate(entries) for fault in validator.problems("muse.json", number, one)]
    read = list(read_muse(tmp_path / "muse.json", [tmp_path]))
    exchanges = [exchange for one in read for exchange in one.exchanges]
    assert [one.answer for one in exchanges] == [
        "The black ring {seg}, a box {seg}, nothing.",
        "the parts {seg}.",
        "the parts {seg}.",
    ]
    hw = (exports.HEIGHT, exports.WIDTH)
    assert same([instance.mask.decode(*hw) for one in exchanges for instance in one.targets], everything())
    assert exchanges[0].targets[0].names == ("The black ring", "black ring")


def test_real_masks(shared, tmp_path):
    """What each format loses of COCO's own annotations: nothing, but YOLO, which has one polygon for all parts."""
    path, wanted = exports.real(shared, tmp_path / "real.jsonl", IMAGES)
    answers, flat = read_answers(path), list(chain(*wanted))
    assert len(flat) > 100
    for number, (name, tolerance) in enumerate((("coco", None), ("coco", 0.0), ("lvis", None))):
        export(answers, name, tmp_path / f"{number}.json", tolerance)
        assert same(coco_masks(tmp_path / f"{number}.json"), flat)
    export(answers, "muse", tmp_path / "muse.json", 0.0)
    for one, expected in zip(read_muse(tmp_path / "muse.json", [tmp_path]), wanted, strict=True):
        assert same([instance.mask.decode(*one.original_hw) for instance in one.exchanges[0].targets], expected)
    export(answers, "labelme", tmp_path / "labelme")
    done = export(answers, "yolo-seg", tmp_path / "yolo")
    read = yolo_masks(tmp_path / "yolo")
    lost = []
    for one, expected in zip(by_image(answers), wanted, strict=True):
        assert same(labelme_masks(tmp_path / "labelme" / f"{one.stem}.json"), expected)
        lost += [iou(*pair) for pair in zip(read[one.stem], expected, strict=True)]
    assert done.ious == tuple(lost)
    assert np.mean(lost) > 0.99
    assert np.mean(np.array(lost) == 1) > 0.8


def answer(*targets: tuple[str, np.ndarray]) -> Answer:
    text = ", ".join(phrase for phrase, _ in targets)
    found = tuple(Target.of_mask(p, (text.index(p), text.index(p) + len(p)), mask, 0.75) for p, mask in targets)
    return Answer("Where?", text, found, (exports.HEIGHT, exports.WIDTH), tiny.picture(exports.WIDTH, exports.HEIGHT))


def test_answers_as_ask_writes_them(tmp_path):
    given = answer(("the ring", exports.RING), ("a box", exports.PLAIN)).to_json()
    path = tmp_path / "answer.json"
    for content, count in ((given, 1), ([given, given], 2)):
        path.write_text(json.dumps(content, indent=2))
        found = read_answers(path, image="somewhere/x.png")
        assert len(found) == count
        assert [one.category for one in found[0].targets] == ["ring", "box"]
        assert same([one.mask for one in found[0].targets], [exports.RING, exports.PLAIN])
        assert (found[0].question, found[0].targets[0].score) == ("Where?", 0.75)
    with pytest.raises(ValueError, match=r"answer '1': expected an image, got none\. Name it with --image"):
        read_answers(path)


def test_texts_of_other_systems(tmp_path):
    ring, box = masks.encode(exports.RING), masks.encode(exports.PLAIN)
    rows = [
        {"id": "slots", "text": "Sure, it is the ring {seg} and a box {seg}.", "masks": [ring, box]},
        {"id": "none", "text": "Two things.", "masks": [ring, box]},
        {"id": "odd", "text": "{seg} is a thing", "masks": [ring], "spans": [[9, 16]]},
        {"id": "silent", "text": "", "masks": [ring]},
    ]
    found = read_answers(exports.write(tmp_path / "p.jsonl", rows), image="x.png")
    assert [[one.phrase for one in given.targets] for given in found] == [
        ["the ring", "a box"],
        ["Two things."] * 2,
        ["a thing"],
        [""],
    ]
    assert [with_slots(given)[0] for given in found] == [
        rows[0]["text"],
        "Two things. {seg} {seg}",
        "(seg) is a thing {seg}",
        "{seg}",
    ]
    assert found[3].targets[0].category == "object"


def test_images_from_a_file_of_questions(tmp_path):
    tiny.picture(exports.WIDTH, exports.HEIGHT).save(tmp_path / "x.png")
    questions = exports.write(tmp_path / "q.jsonl", [{"id": "1", "image": "x.png", "question": "Where?"}])
    path = exports.write(tmp_path / "p.jsonl", [{"id": "1", "text": "Nowhere.", "masks": []}])
    (found,) = read_answers(path, questions=questions)
    assert (found.image_path, found.question) == (str(tmp_path / "x.png"), "Where?")
    assert found.original_hw == (exports.HEIGHT, exports.WIDTH)
    with pytest.raises(ValueError, match=r"'1': expected an image, got none\. .*give --questions"):
        read_answers(path)


def test_mistakes(answers, tmp_path):
    with pytest.raises(ValueError, match="--tolerance: expected a format of polygons, got png"):
        export(answers, "png", tmp_path / "out", 1.0)
    with pytest.raises(ValueError, match="expected a file, got the directory"):
        export(answers, "coco", tmp_path)
    (tmp_path / "there.json").write_text("mine")
    with pytest.raises(ValueError, match=r"expected a new file, got .*there\.json"):
        export(answers, "coco", tmp_path / "there.json")
    with pytest.raises(ValueError, match="expected a new or empty directory"):
        export(answers, "cutout", tmp_path)
    with pytest.raises(ValueError, match="that muse has a place for, got none of 1"):
        export(answers[-1:], "muse", tmp_path / "out.json")
    sizes = [{"id": "1", "text": "", "masks": [masks.encode(exports.RING), masks.encode(exports.RING[:, 1:])]}]
    with pytest.raises(ValueError, match="expected masks of 30×40 pixels, got others"):
        read_answers(exports.write(tmp_path / "p.jsonl", sizes), image="x.png")


@pytest.mark.parametrize("to", ["labelme", "yolo-seg", "cutout"])
def test_an_image_that_is_gone_or_of_another_size_leaves_nothing(answers, tmp_path, to):
    tiny.picture(10, 10).save(tmp_path / "b" / "cat.png")
    with pytest.raises(ValueError, match="expected 30×40 pixels as its masks have, got 10×10"):
        export(answers, to, tmp_path / "out")
    (tmp_path / "b" / "cat.png").unlink()
    with pytest.raises(ValueError, match="does not exist"):
        export(answers, to, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "predictions.jsonl"}


def test_detections():
    nothing = np.zeros_like(exports.RING)
    found = answer(("the ring", exports.RING), ("nothing", nothing), ("a box", exports.PLAIN)).to_detections()
    assert isinstance(found, sv.Detections)
    assert same(found.mask, [exports.RING, nothing, exports.PLAIN])
    assert found.data["class_name"].tolist() == ["the ring", "nothing", "a box"]
    assert found.class_id.tolist() == [0, 1, 2]
    assert found.confidence.tolist() == [0.75] * 3
    assert found.xyxy[0].tolist() == [2, 2, 13, 13]  # supervision's boxes end with the last pixel
    assert len(answer().to_detections()) == 0


def test_nothing_here_needs_torch():
    """What `pixellm export` imports; it would take seconds."""
    import subprocess

    code = "import sys, pixellm.export.formats, pixellm.cli.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
