"""Referring data sets, from trees in their published layout."""

import os
import pickle

import numpy as np
import pytest

from pixellm.data.catalogue import open_data
from pixellm.data.refer import read_plain_pickle
from tests.support import trees

HEIGHT, WIDTH = trees.HEIGHT, trees.WIDTH


def masks_of(record) -> dict[str, np.ndarray]:
    return {r.names[0]: r.mask.decode(HEIGHT, WIDTH) for r in record.instances if r.mask is not None}


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_one_record_for_an_image_and_one_region_for_a_sentence(tmp_path, name) -> None:
    references = [
        trees.reference(1, 11, "the left box", "ein Kästchen {seg}"),
        trees.reference(2, 12, "the bar"),
        trees.reference(3, 11, "elsewhere", image_id=2),
        trees.reference(4, 12, "not for training", split="val"),
    ]
    trees.refcoco(tmp_path, references, {11: [trees.SQUARE], 12: trees.rle(trees.bar())}, name)
    data = open_data(name, tmp_path)
    assert [record.record_id for record in data] == ["1", "2"]
    found = masks_of(data[0])
    assert found.keys() == {"the left box", "ein Kästchen {seg}", "the bar"}
    assert np.array_equal(found["the left box"], trees.square())
    assert np.array_equal(found["the bar"], trees.bar())
    assert data[0].image.is_file()
    assert [record.instances[0].names for record in open_data(f"{name}:val", tmp_path)] == [("not for training",)]


def test_masks_in_every_form(tmp_path) -> None:
    """Overlapping polygons are a union; RLEs come as text, as lists of runs, and several to one object."""
    forms = {
        1: [trees.SQUARE, trees.INNER],
        2: trees.rle(trees.square(), compressed=False),
        3: [trees.rle(trees.square()), trees.rle(trees.bar())],
    }
    trees.refcoco(tmp_path, [trees.reference(i, i, f"thing {i}") for i in forms], forms)
    found = masks_of(open_data("refcoco", tmp_path)[0])
    assert np.array_equal(found["thing 1"], trees.square())
    assert np.array_equal(found["thing 2"], trees.square())
    assert np.array_equal(found["thing 3"], trees.square() | trees.bar())


def test_several_targets_or_none(tmp_path) -> None:
    references = [
        trees.reference(1, [11, 12], "both"),
        trees.reference(2, [-1], "the unicorn"),
        trees.reference(3, [11], "the box"),
    ]
    trees.refcoco(tmp_path, references, {11: [trees.SQUARE], 12: [trees.BAR]}, "grefcoco")
    (record,) = open_data("grefcoco", tmp_path)
    assert np.array_equal(masks_of(record)["both"], trees.square() | trees.bar())
    assert [instance.names[0] for instance in record.instances if instance.mask is None] == ["the unicorn"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ann_id": 99}, "no annotation 99"),
        ({"image_id": 99}, "no image 99"),
        ({"sentences": []}, "no sentence"),
        ({"sentences": [{"raw": "no sent"}]}, "no field 'sent'"),
        ({"ann_id": 13}, "segmentation"),
        ({"ann_id": 14}, "at least three points"),
    ],
)
def test_bad_references_are_named_and_left_out(tmp_path, change, reason) -> None:
    references = [trees.reference(1, 11, "the box"), trees.reference(2, 11, "another") | change]
    trees.refcoco(tmp_path, references, {11: [trees.SQUARE], 13: [], 14: [[1, 2, 3, 4]]})
    data = open_data("refcoco", tmp_path, max_bad_fraction=0.5)
    assert [instance.names[0] for instance in data[0].instances] == ["the box"]
    (bad,) = data.bad
    assert bad.record_id == "2"
    assert reason in bad.reason
    with pytest.raises(ValueError, match="1 of 2 records can't be used, expected at most 1%"):
        open_data("refcoco", tmp_path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = trees.refcoco(tmp_path, [trees.reference(1, 11, "x")], {11: [trees.SQUARE]})
    (folder / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(ValueError, match="code, which is never run"):
        open_data("refcoco", tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1})[:-3]])
def test_damaged_pickles(tmp_path, content) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Fetch it again"):
        read_plain_pickle(path)


def test_pickles_of_python_2_hold_bytes_and_long_numbers(tmp_path) -> None:
    """Protocol 0 as Python 2 wrote it: str as S'…', long as 5L."""
    path = tmp_path / "refs.p"
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'a caf\\xc3\\xa9'\np3\nsS'id'\np4\nL5L\nsa.")
    assert read_plain_pickle(path) == [{"sent": "a café", "id": 5}]


def test_absent_files_and_splits(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"instances\.json"):
        open_data("refcoco", tmp_path)
    folder = trees.refcoco(tmp_path, [trees.reference(1, 11, "x")], {11: [trees.SQUARE]})
    with pytest.raises(ValueError, match="split 'testA', found train"):
        open_data("refcoco:testA", tmp_path)
    with pytest.raises(ValueError, match="Known: train, val"):
        open_data("refcoco:tesst", tmp_path)
    (folder / "refs(unc).p").unlink()
    with pytest.raises(ValueError, match=r"expected .*refs\(unc\)\.p"):
        open_data("refcoco", tmp_path)


@pytest.mark.parametrize(("count", "sizes"), [(4, [4]), (6, [6]), (13, [6, 5, 2]), (22, [6, 5, 4, 6, 1])])
def test_multi_referring_groups(tmp_path, count, sizes) -> None:
    """Sentences in file order, 6, 5 and 4 in turn; one name may come twice, and what fits nothing does not count."""
    references = [trees.reference(i, 11, f"thing {i}") for i in range(count)]
    references.insert(2, trees.reference(99, [-1], "the unicorn"))
    trees.refcoco(tmp_path, references, {11: [trees.SQUARE]}, "grefcoco")
    (record,) = open_data("multigrefcoco", tmp_path)
    assert [len(exchange.targets) for exchange in record.exchanges] == sizes
    said = [instance.names[0] for exchange in record.exchanges for instance in exchange.targets]
    assert said == [f"thing {i}" for i in range(count)]
    assert record.exchanges[0].question.startswith("thing 0, thing 1")
    with pytest.raises(ValueError, match="expected a dataset, got 'multimuse'"):
        open_data("multimuse", tmp_path)


def test_a_bad_reference_leaves_no_empty_record(tmp_path) -> None:
    references = [trees.reference(1, 11, "x"), trees.reference(2, 99, "y", image_id=2)]
    trees.refcoco(tmp_path, references, {11: [trees.SQUARE]})
    assert [record.record_id for record in open_data("refcoco", tmp_path, max_bad_fraction=1)] == ["1"]


@pytest.mark.parametrize("content", [[], {"a": 1}, {"images": [{"id": 1}], "annotations": [{"id": 1}]}])
def test_malformed_instances(tmp_path, content) -> None:
    folder = trees.refcoco(tmp_path, [trees.reference(1, 11, "x")], {11: [trees.SQUARE]})
    trees.write_json(folder / "instances.json", content)
    with pytest.raises(ValueError, match=r"expected|can't be used"):
        open_data("refcoco", tmp_path)
