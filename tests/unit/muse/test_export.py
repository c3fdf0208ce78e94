"""Records → data set: the released layout as our reader reads it, splits without a leak, Parquet, the card."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pixellm.data.reasoning import read_muse
from pixellm.imaging import masks
from pixellm.muse import layout
from pixellm.muse.annotation_index import AnnotationIndex
from pixellm.muse.card import card
from pixellm.muse.export import export
from pixellm.muse.journal import Journal, Reject
from pixellm.muse.layout import MusePair, image_key
from pixellm.muse.operations import SPLITS, SplitShares, split_of
from pixellm.utils.openai_client import Completion
from tests.support import muse_cases

RECORDS = muse_cases.records(40)
SHARES = SplitShares(val=0.2, test=0.3, seed=1)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal", {"seed": 0}) as journal:
        for record in RECORDS:
            journal.finish_image(record.image.image_id, [record, replace(record, record_id=f"{record.record_id}b")])
        journal.finish_image(1000, rejects=[Reject("1000/0", {}, "broad", "?")])
        journal.finish_image(1001, reason="fewer than two things")
        journal.save_reply("k", Completion("reply", 100, 20, 0.125))
        yield journal


def write(journal, out, **more):
    return export(journal.records, out, lambda found: card(found, journal, SHARES, "Mini"), SHARES, **more)


def test_our_reader_reads_the_same(journal, tmp_path) -> None:
    found = write(journal, tmp_path / "out")
    asked = {(f"{one.image.image_id}", one.question): one for one in RECORDS}
    read = 0
    for name in SPLITS:
        data = read_muse(tmp_path / f"out/muse_{name}.json", [tmp_path], max_bad_fraction=0)
        assert sum(len(one.exchanges) for one in data) == found.splits[name].pairs
        for one in data:
            assert one.original_hw == (muse_cases.HEIGHT, muse_cases.WIDTH)
            assert one.image.parent.name == "train2017"
            for exchange in one.exchanges:
                record = asked[one.record_id, exchange.question]
                assert exchange.answer == record.text
                assert [r.names for r in exchange.targets] == [(t.description, t.category) for t in record.targets]
                for instance, target in zip(exchange.targets, record.targets, strict=True):
                    wanted = masks.decode(target.segmentation, muse_cases.HEIGHT, muse_cases.WIDTH)
                    assert np.array_equal(instance.mask.decode(muse_cases.HEIGHT, muse_cases.WIDTH), wanted)
                read += 1
    assert read == 2 * len(RECORDS)


def test_fields_are_those_of_the_released_layout(journal, tmp_path) -> None:
    write(journal, tmp_path / "out")
    entries = layout.read(tmp_path / "out/muse_train.json")
    for one in entries:
        assert {"height", "width", "coco_url", "ann_list", "questions", "answers", "text_answers"} <= set(one)
        numbers = {len(one[name]) for name in ("questions", "answers", "text_answers", "provenance")}
        assert numbers == {2}
        assert {target["id"] for target in one["ann_list"]} == {t["id"] for a in one["answers"] for t in a}
        for target in (target for answer in one["answers"] for target in answer):
            assert {"segmentation", "bbox", "category_id", "category_name", "rephrased_name"} <= set(target)
    assert all(made["synthetic"] is True for one in entries for made in one["provenance"])


def test_no_photograph_is_in_two_splits(journal, tmp_path) -> None:
    found = write(journal, tmp_path / "out")
    where = {}
    for name in SPLITS:
        for one in layout.read(tmp_path / f"out/muse_{name}.json"):
            assert where.setdefault(image_key(one), name) == name
            if name.startswith("test"):
                assert all((len(answer) <= 3) == (name == "test_less") for answer in one["answers"])
    assert set(where.values()) >= {"train", "val", "test_less"}
    again = write(journal, tmp_path / "again")
    assert again.to_json() == found.to_json()
    for path in (tmp_path / "out").rglob("*.json"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_splits_by_lot() -> None:
    """Shares are about what was asked for; years of COCO name one photograph."""
    few, many = MusePair("?", [{}] * 3, None), MusePair("?", [{}] * 4, None)
    places = [split_of(str(number), [few], SplitShares(0.1, 0.2))[0] for number in range(4000)]
    assert places.count("val") / 4000 == pytest.approx(0.1, abs=0.02)
    assert places.count("test_less") / 4000 == pytest.approx(0.2, abs=0.02)
    assert "test_many" not in places
    mixed = [split_of(str(number), [few, many], SplitShares(0, 0.99)) for number in range(500)]
    assert {name: kept for name, kept in mixed if name != "train"} == {"test_less": [few], "test_many": [many]}
    one = {"coco_url": "http://images.cocodataset.org/train2017/000000000007.jpg"}
    assert image_key(one) == image_key({"file_name": "COCO_train2014_000000000007.jpg"}) == "000000000007"
    with pytest.raises(ValueError, match="sum up to less than 1"):
        SplitShares(0.5, 0.5)


def test_parquet(journal, tmp_path) -> None:
    found = write(journal, tmp_path / "out")
    rows = [
        r for name in SPLITS for r in pq.read_table(tmp_path / f"out/data/{name}-00000-of-00001.parquet").to_pylist()
    ]
    assert len(rows) == sum(one.pairs for one in found.splits.values())
    records = {one.record_id: one for one in RECORDS}
    for row in rows:
        record = records[row["record_id"].removesuffix("b")]
        assert (row["question"], row["answer"], row["license"]) == (record.question, record.text, record.image.licence)
        assert (row["engine"], row["prompt"], row["synthetic"]) == ("template", "grammar@1", True)
        for mine, target in zip(row["targets"], record.targets, strict=True):
            assert mine["mask"] == muse_cases.rle(target)
            assert mine["description"] == target.description


def test_card(journal, tmp_path) -> None:
    found = write(journal, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    train = found.splits["train"]
    for words in (
        "license: other",
        "size_categories:\n- n<1K",
        "  - split: train\n    path: data/train-*.parquet",
        f"| train | {train.images} | {train.pairs} | {train.instances} |",
        "| template | v1 | grammar@1 | yes | 80 |",
        "80 of 80 pairs (100.0%) are synthetic",
        "1 replies: 100 tokens in, 20 tokens out, 0.1250",
        "- broad: 1",
        "- fewer than two things: 1",
        "| CC BY 2.0 | 40 |",
    ):
        assert words in text, words
    assert "split: test_many" not in text  # it is empty


def test_source_gives_all_instances_and_numbers(journal, tmp_path) -> None:
    names = sorted({target.category for one in RECORDS for target in one.targets})
    categories = [{"id": 100 + i, "name": name.replace(" ", "_")} for i, name in enumerate(names)]
    other = {"id": 5, "image_id": 0, "category_id": 100, "segmentation": [[1, 1, 5, 1, 5, 5]], "bbox": [1, 1, 4, 4]}
    path = tmp_path / "instances.json"
    images = [{"id": 0, "file_name": "0.jpg", "height": 480, "width": 640}]
    path.write_text(json.dumps({"images": images, "annotations": [other], "categories": categories}))
    write(journal, tmp_path / "out", index=AnnotationIndex.build(path, tmp_path / "source.sqlite"))
    entries = [one for name in SPLITS for one in layout.read(tmp_path / f"out/muse_{name}.json")]
    first = next(one for one in entries if one["id"] == 0)
    assert [one["id"] for one in first["ann_list"]] == [5]
    ids = {t["category_name"]: t["category_id"] for one in entries for answer in one["answers"] for t in answer}
    assert ids == {name: 100 + i for i, name in enumerate(names)}
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories[1:]}))
    with pytest.raises(ValueError, match="expected the annotations that the records were made from"):
        write(journal, tmp_path / "out2", index=AnnotationIndex.build(path, tmp_path / "source.sqlite"))


def test_what_nobody_can_read_is_left_out(journal, tmp_path) -> None:
    journal.review("3/0", "keep", replace(RECORDS[3], text="No slots."))
    found = write(journal, tmp_path / "out")
    assert found.left_out == {"check slots": 1}
    assert sum(one.pairs for one in found.splits.values()) == 79


def test_whole_or_not_at_all(journal, tmp_path) -> None:
    (tmp_path / "out").mkdir()  # an empty one will do

    def fail(_found):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        export(journal.records, tmp_path / "out", fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "out"]
    assert not any((tmp_path / "out").iterdir())
    with pytest.raises(ValueError, match="expected records to export, got none"):
        export(lambda: [], tmp_path / "none", lambda _: "")
    with pytest.raises(ValueError, match="one after another"):
        export(lambda: [RECORDS[0], RECORDS[1], RECORDS[0]], tmp_path / "apart", lambda _: "")
    write(journal, tmp_path / "out")
    with pytest.raises(ValueError, match="expected a new or empty directory"):
        write(journal, tmp_path / "out")


def test_later_rejects(journal) -> None:
    journal.review("3/0", "keep")
    journal.reject("3/0", "verifier", "the cup is a bowl")
    assert "3/0" not in {one.record_id for one in journal.records(reviewed=False)}
    assert [(one.record_id, one.check) for one in journal.rejects()] == [("1000/0", "broad"), ("3/0", "verifier")]
    assert journal.reviews() == {}
    with pytest.raises(ValueError, match="expected a record of the journal"):
        journal.reject("3/0", "verifier", "twice")
