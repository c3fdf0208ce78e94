"""Classes and parts, from trees in their published layout."""

import numpy as np
import pytest

from pixellm.data.catalogue import open_data
from pixellm.data.semantic import class_names, instance_names, read_instances
from tests.support import trees


def names_of(record) -> set[str]:
    return {instance.names[0] for instance in record.instances}


def mask_of(record, name: str) -> np.ndarray:
    (instance,) = [instance for instance in record.instances if name in instance.names]
    return instance.mask.decode(trees.HEIGHT, trees.WIDTH)


def test_ade20k(tmp_path) -> None:
    """Label 1 is the first of 150 names, label 0 is none."""
    root = tmp_path / "ade20k"
    trees.photograph(root / "images/training/ADE_train_1.jpg")
    trees.label_map(root / "annotations/training/ADE_train_1.png", {1: trees.square(), 150: trees.bar()})
    (record,) = open_data("ade20k", tmp_path)
    assert names_of(record) == {"wall", "flag"}
    assert np.array_equal(mask_of(record, "wall"), trees.square())
    assert np.array_equal(mask_of(record, "flag"), trees.bar())
    assert len(record.absent) == 148
    assert "bed" in record.absent


def test_cocostuff(tmp_path) -> None:
    """Label 0 is the first name; leftovers ("wall-other") and 255 are nothing."""
    names = class_names("cocostuff")
    assert len(names) == 182
    assert sum("-" in name for name in names) == 28
    trees.photograph(tmp_path / "coco/train2017/1.jpg")
    values = {0: trees.square(), names.index("wall-other"): trees.bar()}
    trees.label_map(tmp_path / "cocostuff/train2017/1.png", values, background=255)
    (record,) = open_data("cocostuff", tmp_path)
    assert names_of(record) == {"person"}
    assert np.array_equal(mask_of(record, "person"), trees.square())
    assert "dog" in record.absent
    assert not {"wall-other", "person", "door", "hat"} & set(record.absent)  # "door" was never annotated


def test_mapillary(tmp_path) -> None:
    """Names come from the data set's own file; two labels of one name are one instance."""
    root = tmp_path / "mapillary"
    labels = [
        {"name": f"a--{i}", "readable": name, "evaluate": True} for i, name in enumerate(["Bird", "Curb", "Bird"])
    ]
    trees.write_json(root / "config_v2.0.json", {"version": "2.0", "labels": labels})
    trees.photograph(root / "training/images/x.jpg")
    trees.label_map(root / "training/v2.0/labels/x.png", {0: trees.square(), 2: trees.bar()}, background=1)
    (record,) = open_data("mapillary", tmp_path)
    assert names_of(record) == {"bird", "curb"}
    assert np.array_equal(mask_of(record, "bird"), trees.square() | trees.bar())
    assert record.absent == ()
    trees.write_json(root / "config_v2.0.json", {"labels": ["Bird"]})
    with pytest.raises(ValueError, match="readable"):
        open_data("mapillary", tmp_path)


def instances(root, annotations, categories, images=None, name="instances.json"):
    images = images or [trees.image_record(1, "train2017/1.jpg")]
    rows = [{"id": i, "image_id": 1, "iscrowd": 0, **row} for i, row in enumerate(annotations)]
    content = {"images": images, "annotations": rows, "categories": categories}
    return trees.write_json(root / name, content)


def test_parts_are_said_with_what_they_belong_to(tmp_path) -> None:
    trees.photograph(tmp_path / "coco/train2017/1.jpg")
    categories = [{"id": 1, "name": "bicycle:saddle"}, {"id": 2, "name": "bag_(container)"}, {"id": 3, "name": "dog"}]
    found = [
        {"category_id": 1, "segmentation": [trees.SQUARE]},
        {"category_id": 2, "segmentation": trees.rle(trees.bar())},
    ]
    images = [trees.image_record(1, "train2017/1.jpg", neg_category_ids=[3])]
    instances(tmp_path, found, categories, images, "vlpart/paco/annotations/paco_lvis_v1_train.json")
    (record,) = open_data("paco_lvis", tmp_path)
    assert [instance.names for instance in record.instances] == [("bicycle saddle", "saddle of the bicycle"), ("bag",)]
    assert record.absent == ("dog",)
    assert record.image.is_file()


def test_instances_of_a_category_are_one_region(tmp_path) -> None:
    """Or "the leg of the dog" would have as many masks as the dog has legs."""
    root = tmp_path / "vlpart/pascal_part"
    trees.photograph(root / "VOCdevkit/VOC2010/JPEGImages/1.jpg")
    legs = [{"category_id": 5, "segmentation": [p]} for p in (trees.SQUARE, trees.BAR)]
    instances(root, legs, [{"id": 5, "name": "dog:leg"}], [trees.image_record(1, "1.jpg")], "train.json")
    (record,) = open_data("pascal_part", tmp_path)
    assert np.array_equal(mask_of(record, "dog leg"), trees.square() | trees.bar())


def test_any_instances_file(tmp_path) -> None:
    """LVIS v1 names images by URL; crowds belong to their class; images without annotations are left out."""
    images = [
        {"id": 1, "coco_url": "http://x/train2017/1.jpg", "height": 30, "width": 40},
        trees.image_record(2, "2.jpg"),
    ]
    found = [
        {"category_id": 1, "segmentation": [trees.SQUARE]},
        {"category_id": 1, "iscrowd": 1, "segmentation": trees.rle(trees.bar(), compressed=False)},
    ]
    categories = [{"id": 1, "name": "Schäferhund"}, {"id": 2, "name": "cat"}]
    path = instances(tmp_path, found, categories, images)
    trees.photograph(tmp_path / "train2017/1.jpg")
    (record,) = open_data(str(path), tmp_path)
    assert record.image == tmp_path / "train2017/1.jpg"
    assert np.array_equal(mask_of(record, "Schäferhund"), trees.square() | trees.bar())
    assert open_data(f"{path}:{tmp_path.name}", tmp_path.parent)[0].image == record.image
    assert record.absent == ()
    assert read_instances(path, tmp_path, complete=True)[0].absent == ("cat",)


def test_categories_that_are_called_alike_are_one(tmp_path) -> None:
    """And what LVIS did not annotate exhaustively is neither asked for nor absent."""
    categories = [{"id": 1, "name": "bow_(weapon)"}, {"id": 2, "name": "bow_(decorative_ribbons)"}]
    categories += [{"id": 3, "name": "cup"}, {"id": 4, "name": "monitor_(computer_equipment) computer_monitor"}]
    found = [{"category_id": i, "segmentation": [p]} for i, p in ((1, trees.SQUARE), (3, trees.BAR))]
    more = {"neg_category_ids": [2, 4], "not_exhaustive_category_ids": [3]}
    path = instances(tmp_path, found, categories, [trees.image_record(1, "1.jpg", **more)])
    (record,) = read_instances(path, tmp_path)
    assert names_of(record) == {"bow"}
    assert record.absent == ("monitor",)


@pytest.mark.parametrize(
    ("file_name", "place"),
    [(None, "train2017/1.jpg"), (None, "1.jpg"), ("COCO_val2014_1.jpg", "train2017/1.jpg"), ("a/b.jpg", "a/b.jpg")],
)
def test_where_lvis_images_may_lie(tmp_path, file_name, place) -> None:
    image = {"id": 1, "coco_url": "http://x/train2017/1.jpg", "height": 30, "width": 40}
    image |= {"file_name": file_name} if file_name else {}
    path = instances(tmp_path, [{"category_id": 1, "segmentation": [trees.SQUARE]}], [{"id": 1, "name": "x"}], [image])
    trees.photograph(tmp_path / "images" / place)
    assert read_instances(path, tmp_path / "images")[0].image == tmp_path / "images" / place


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"category_id": 9, "segmentation": [trees.SQUARE]}, "no category 9"),
        ({"category_id": 1, "image_id": 9, "segmentation": [trees.SQUARE]}, "no image 9"),
        ({"category_id": 1}, "no field 'segmentation'"),
        ({"category_id": 1, "segmentation": []}, "expected polygons or an RLE"),
        ({"category_id": 1, "segmentation": [[1, 2]]}, "three points"),
    ],
)
def test_bad_annotations_are_named_and_left_out(tmp_path, annotation, reason) -> None:
    good = {"category_id": 1, "segmentation": [trees.SQUARE]}
    path = instances(tmp_path, [good, annotation], [{"id": 1, "name": "dog"}])
    data = read_instances(path, tmp_path, max_bad_fraction=0.5)
    assert [(bad.record_id, reason in bad.reason) for bad in data.bad] == [("annotation 1", True)]
    assert np.array_equal(mask_of(data[0], "dog"), trees.square())


def test_absent_and_broken_files(tmp_path) -> None:
    with pytest.raises(ValueError, match="label maps"):
        open_data("ade20k", tmp_path)
    with pytest.raises(ValueError, match="No such file"):
        open_data("pascal_part", tmp_path)
    with pytest.raises(ValueError, match="lists images, annotations and categories"):
        open_data(str(trees.write_json(tmp_path / "x.json", [])), tmp_path)
    labels = tmp_path / "ade20k/annotations/training/1.png"
    trees.label_map(labels, {})
    with pytest.raises(ValueError, match=r"no image 1\.jpg"):
        open_data("ade20k", tmp_path)
    trees.photograph(tmp_path / "ade20k/images/training/1.jpg")
    labels.write_bytes(b"not a PNG")
    with pytest.raises(ValueError, match="can't be read"):
        open_data("ade20k", tmp_path)[0]


def test_a_label_map_of_another_size_is_refused(tmp_path) -> None:
    trees.photograph(tmp_path / "ade20k/images/training/1.jpg")
    trees.label_map(tmp_path / "ade20k/annotations/training/1.png", {1: trees.square()})
    (record,) = open_data("ade20k", tmp_path)
    with pytest.raises(ValueError, match="expected a label map of 60×80 pixels"):
        record.instances[0].mask.decode(60, 80)


@pytest.mark.parametrize(
    ("category", "names"),
    [
        ("dog", ("dog",)),
        ("bat_(sports_equipment)", ("bat",)),
        ("wine_glass", ("wine glass",)),
        ("car:window", ("car window", "window of the car")),
        ("pipe_(tobacco):bowl", ("pipe bowl", "bowl of the pipe")),
    ],
)
def test_names_of_a_category(category, names) -> None:
    assert instance_names(category) == names
