"""Files from outside: what can't be used is a bad item or a ValueError, whatever stands in a field, and can be printed.

A valid item is mutated: any JSON value in the place of any part of it, or any bytes in the place of the line.
"""

import copy
import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pixellm.batch.questions import read_questions
from pixellm.data.jsonl import read_jsonl
from pixellm.data.reasoning import read_muse
from pixellm.eval.data_check import check, report_lines
from pixellm.eval.predictions import read_predictions
from pixellm.export.answers import read_answers
from pixellm.export.formats import export
from pixellm.muse import layout
from pixellm.muse.operations import SplitShares, merge, split
from pixellm.muse.validate import LayoutValidator
from pixellm.training import load_recipe

HEIGHT, WIDTH = 5, 7
SQUARE = [1, 1, 4, 1, 4, 4, 1, 4]
QUESTION = {"id": "a", "image": "0.png", "question": "Where?"}
LINE = {"image": "0.png", "question": "What?", "answer": "The box {seg}.", "masks": [[SQUARE]]}
RLE = {"size": [HEIGHT, WIDTH], "counts": "61S1"}
SIMPLE = {
    "id": "a",
    "text": "The box.",
    "masks": [{"size": [5, 7], "counts": "61S1"}],
    "spans": [[0, 7]],
    "scores": [0.5],
}
ANSWER = {
    **{"id": "a", "question": "What?", "text": "The box.", "image": "0.png", "size": [5, 7]},
    "targets": [{"span": [0, 7], "score": 0.5, "segmentation": RLE}],
}
INSTANCE = {
    **{"id": 1, "segmentation": [SQUARE], "bbox": [1, 1, 3, 3], "area": 9, "category_id": 1, "category_name": "box"},
    "rephrased_name": "the box",
}
ENTRY = {
    **{"id": 1, "height": HEIGHT, "width": WIDTH, "file_name": "000000000001.jpg"},
    **{"coco_url": "http://images.cocodataset.org/val2017/000000000001.jpg", "ann_list": [INSTANCE]},
    **{"questions": ["What?"], "answers": [[INSTANCE]], "text_answers": ["The box {seg}."]},
}
RECIPE = {
    **{"name": "x", "initialise": {"model": "m"}, "seed": 1},
    "data": {"root": "r", "sets": {"refcoco": 1.0}, "epoch_length": 10},
    "stage": {"steps": 10, "batch_size": 2, "learning_rate": 0.1, "trained": ["pixel_decoder"]},
}

HOSTILE = [
    "",
    " ",
    "\0",
    "\ud800",
    "\udc80",
    "a" * 5000,
    "../0.png",
    "/dev/zero",
    "x\u0301" * 2000,
    "{seg}",
    "None",
    "1e999",
]
NUMBERS = [0, -1, 1, 1.5, 10**9, 10**30, -(10**30), 1e308, float("nan"), float("inf"), True]
LEAVES = st.none() | st.booleans() | st.sampled_from([*HOSTILE, *NUMBERS]) | st.integers() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    """All paths into nested lists and objects."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@st.composite
def mutated(draw, *valid):
    """One of the valid items with up to three of its parts exchanged or removed."""
    item = copy.deepcopy(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(item))))
        if not path:
            item = draw(VALUES) if draw(st.integers(0, 9)) == 0 else item
            continue
        parent = item
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.integers(0, 4)) == 0:
            del parent[path[-1]]
        else:
            parent[path[-1]] = draw(VALUES)
    return item


def line_of(item) -> bytes:
    return json.dumps(item).encode()


def lines(*valid):
    return mutated(*valid).map(line_of) | st.binary(max_size=40).map(lambda line: line.replace(b"\n", b""))


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        Image.new("RGB", (WIDTH, HEIGHT)).save(Path(name) / "0.png")
        yield Path(name)


def write(folder: Path, *content: bytes) -> Path:
    path = folder / "file.jsonl"
    path.write_bytes(b"\n".join(content))
    return path


def printable(*messages: str) -> None:
    for message in messages:
        message.encode()


@given(bad=lines(QUESTION))
@example(bad=line_of({**QUESTION, "image": "a" * 5000}))
@example(bad=line_of({**QUESTION, "question": "\ud800"}))
def test_questions_of_a_batch(folder, bad):
    good = {**QUESTION, "id": "first"}, {**QUESTION, "id": "last"}
    questions, items = read_questions(write(folder, line_of(good[0]), bad, line_of(good[1])))
    ids = [question.id for question in questions]
    assert {"first", "last"} <= set(ids) | {item.id for item in items}
    assert len(questions) + len(items) == 2 + bool(bad.strip())
    assert all(question.image.is_file() for question in questions)
    printable(*ids, *(question.question for question in questions), *(item.id + item.reason for item in items))


@given(bad=lines(LINE))
def test_annotated_data(folder, bad):
    data = read_jsonl(write(folder, line_of(LINE), bad), max_bad_fraction=1.0)
    counts = check(data)
    printable(*report_lines(counts))
    assert counts.questions >= 1 or counts.bad


@given(bad=lines(SIMPLE, ANSWER))
def test_predictions(folder, bad):
    path = write(folder, line_of({**SIMPLE, "id": "good"}), bad)
    try:
        read_predictions(path)
        answers = read_answers(path, image=str(folder / "0.png"))
        for to in ("coco", "muse"):
            out = folder / "out.json"
            out.unlink(missing_ok=True)
            with suppress(ValueError):
                export(answers, to, out, 0.0)
    except ValueError as error:
        printable(str(error))


@given(entry=mutated(ENTRY), again=st.booleans())
def test_muse_files(folder, entry, again):
    path = folder / "muse.json"
    path.write_text(json.dumps([ENTRY, entry] if again else [entry]))
    validator = LayoutValidator(folder)
    printable(
        *(problem.reason for number, one in enumerate([entry]) for problem in validator.problems("x", number, one))
    )
    with suppress(ValueError):
        entries = layout.read(path)
        splits, _ = split(merge(entries), SplitShares())
        layout.write(folder / "written.json", [one for part in splits.values() for one in part])
    try:
        data = read_muse(path, [folder], max_bad_fraction=1.0)
    except ValueError as error:
        printable(str(error))
    else:
        printable(*report_lines(check(data)))


@given(values=mutated(RECIPE), raw=st.none() | st.binary(max_size=60))
def test_recipes(folder, values, raw):
    path = folder / "recipe.yaml"
    path.write_bytes(yaml.safe_dump(values).encode() if raw is None else raw)
    try:
        load_recipe(path)
    except ValueError as error:
        printable(str(error))
