"""Output files of other systems, written here as their code writes them, become answers to a benchmark's questions."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pixellm import cli
from pixellm.eval.other_systems import match_questions, number, read_outputs
from pixellm.eval.predictions import read_predictions
from tests.support import trees

SQUARE, BAR = trees.rle(trees.square()), trees.rle(trees.bar())
CAPTION = {
    "image_id": "7",
    "caption": "The cup stands by the jug.",
    "phrases": ["The cup", "the  jug"],
    "pred_masks": [SQUARE, BAR],
}
REASONED = {
    "sample_info": {"key": "7", "question": "What is there?", "human_confidence": 0, "class_ids": []},
    "prediction": {
        "text": "<think> A table [SEG]. </think> <answer> <p>the cup</p> [SEG] and the jug [SEG]. </answer><|im_end|>",
        "reasoning_masks_rle": [BAR],
        "answer_masks_rle": [SQUARE, BAR],
    },
}
RESPONSE = {
    "id": "pred_a1b2c3d4e5f6",
    "model": "falcon-perception",
    "masks": [{"label": "object 1", "bbox": [5, 5, 15, 15], "rle": SQUARE, "height": 30, "width": 40}],
    "text": "…",
    "query": "cup",
    "image_width": 40,
    "image_height": 30,
}
AGENT = {
    "original_image_path": "images/7.jpg",
    "orig_img_h": 30,
    "orig_img_w": 40,
    "pred_boxes": [[0.1, 0.1, 0.2, 0.2], [0.1, 0.6, 0.7, 0.1]],
    "pred_scores": [0.9, 0.6],
    "pred_masks": [SQUARE["counts"], BAR["counts"]],
    "text_prompt": "the cups",
    "image_path": "images/7.jpg",
}


def write(path, *values):
    path.write_text("\n".join(json.dumps(value) for value in values))
    return path


def only(system, path, *values):
    (answer,) = read_outputs(system, [write(path, *values)])
    assert all(answer.text[slice(*target.span)] == target.phrase for target in answer.targets)
    return answer


def test_a_caption_of_sa2va_has_a_mask_for_each_phrase(tmp_path):
    answer = only("sa2va", tmp_path / "7.json", CAPTION)
    assert [target.phrase for target in answer.targets] == ["The cup", "the jug"]
    assert np.array_equal(answer.targets[1].mask, trees.bar())
    assert (answer.text, answer.original_hw, answer.image_path) == (CAPTION["caption"], (30, 40), "7")


def test_a_mask_without_a_phrase_belongs_to_the_caption(tmp_path):
    answer = only("sa2va", tmp_path / "7.json", {**CAPTION, "phrases": ["the jug"]})
    assert [target.phrase for target in answer.targets] == ["the jug", CAPTION["caption"]]


def test_of_a_reasoned_answer_only_the_answer_is_read(tmp_path):
    answer = only("sa2va", tmp_path / "ver_evaluation_results.json", {"detailed_results": [REASONED], "metrics": {}})
    assert (answer.question, answer.text) == ("What is there?", "the cup and the jug.")
    assert [target.phrase for target in answer.targets] == ["the cup", "the jug"]
    plain = {"text": "It is the cup [SEG].", "answer_masks_rle": [SQUARE]}
    answer = only("sa2va", tmp_path / "r.json", {"detailed_results": [{**REASONED, "prediction": plain}]})
    assert [target.phrase for target in answer.targets] == ["the cup"]


def test_falcon_perception_answers_with_its_query(tmp_path):
    answer = only("falcon-perception", tmp_path / "7.json", RESPONSE)
    assert (answer.question, answer.image_path, answer.targets[0].phrase) == ("cup", "7.json", "cup")
    assert np.array_equal(answer.targets[0].mask, trees.square())
    nothing = {**RESPONSE, "masks": [], "query": "dog", "image": "images/8.jpg"}
    first, second = read_outputs("falcon-perception", [write(tmp_path / "7.jsonl", RESPONSE, nothing)])
    assert (first.image_path, second.image_path) == ("7.jsonl", "images/8.jpg")
    assert (second.text, second.targets, second.original_hw) == ("", (), (30, 40))


def test_the_sam3_agent_has_scores(tmp_path):
    answer = only("sam3-agent", tmp_path / "7_the_cups_agent_vlm_pred.json", AGENT)
    assert [target.score for target in answer.targets] == [0.9, 0.6]
    assert np.array_equal(answer.targets[1].mask, trees.bar())
    assert (answer.question, answer.text) == ("the cups", "the cups")


def test_of_a_directory_the_answers_are_read(tmp_path):
    write(tmp_path / "a_pred.json", AGENT)
    write(tmp_path / "a_history.json", [{"role": "system"}])
    assert len(read_outputs("sam3-agent", [tmp_path])) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected files \*_pred.json of sam3-agent in .*empty, got none"):
        read_outputs("sam3-agent", [tmp_path / "empty"])


@pytest.mark.parametrize(
    ("system", "row", "pattern"),
    [
        ("sa2va", [], "expected a JSON object"),
        (
            "sa2va",
            AGENT,
            "expected the fields image_id, caption, phrases, pred_masks, got none called caption, image_id",
        ),
        ("sa2va", {**CAPTION, "pred_masks": [[1]]}, "expected an RLE"),
        ("falcon-perception", {**RESPONSE, "image_width": 41}, "expected a mask of 30×41 pixels, got 30×40"),
        ("falcon-perception", {**RESPONSE, "masks": [{"rle": {}}]}, "expected an RLE with the fields"),
        ("sam3-agent", {**AGENT, "pred_scores": [0.5]}, "expected a score for each of 2 masks, got 1"),
        ("sam3-agent", {**AGENT, "pred_scores": [0.5, 3]}, "expected a score in 0..1, got 3"),
    ],
)
def test_files_of_another_format_are_named(tmp_path, system, row, pattern):
    file = write(tmp_path / "7_pred.json", row)
    with pytest.raises(ValueError, match=f"7_pred.json: expected an output of {system}: {pattern}"):
        read_outputs(system, [file])


def questions(path, *rows):
    names = ("id", "image", "question", "expression")
    return write(path, *(dict(zip(names, row, strict=True)) for row in rows))


def test_answers_get_the_ids_of_their_questions(tmp_path):
    asked = questions(
        tmp_path / "q.jsonl",
        ("val/7/0", "/data/7.jpg", "What is the dog in this image?", "the dog"),
        ("val/7/1", "/data/7.jpg", "What is The cups in this image?", "The cups."),
        ("val/8/0", "/data/8.jpg", "What is there?", "what is there"),
    )
    reasoned = {**REASONED, "sample_info": {"key": "8", "question": "What is there?"}}
    files = {
        "sam3-agent": write(tmp_path / "7_pred.json", AGENT),
        "sa2va": write(tmp_path / "r.json", {"detailed_results": [reasoned]}),
    }
    answers = [answer for system, file in files.items() for answer in read_outputs(system, [file])]
    found = match_questions(answers, asked)
    assert [(answer.id, answer.image_path) for answer in found] == [
        ("val/7/1", "/data/7.jpg"),
        ("val/8/0", "/data/8.jpg"),
    ]
    assert found[0].question == "What is The cups in this image?"
    unasked = read_outputs("sa2va", [write(tmp_path / "7.json", CAPTION)])  # a caption has no question
    assert [answer.id for answer in match_questions(unasked * 2, asked)] == ["val/7/0", "val/7/1"]
    with pytest.raises(ValueError, match=r"answer to 'the cups' on images/7.jpg, got \(left\): 'the dog'"):
        match_questions(answers[:1] * 2, asked)


def test_images_of_one_name_are_refused(tmp_path):
    asked = questions(tmp_path / "q.jsonl", ("a", "/a/7.jpg", "?", ""), ("b", "/b/7.jpg", "?", ""))
    with pytest.raises(ValueError, match=r"different names in .*q.jsonl, got /a/7.jpg, /b/7.jpg"):
        match_questions([], asked)


def test_ids_without_questions(tmp_path):
    (answer,) = read_outputs("sam3-agent", [write(tmp_path / "7_pred.json", AGENT)])
    assert [found.id for found in number([answer, answer])] == ["7/0", "7/1"]


def test_the_command_writes_what_score_reads(tmp_path):
    file, out = write(tmp_path / "7.json", RESPONSE), tmp_path / "predictions.jsonl"
    result = CliRunner().invoke(cli.app, ["predictions", "falcon-perception", str(file), "--out", str(out)])
    assert (result.exit_code, "1 answers, 1 masks" in result.output) == (0, True)
    found = read_predictions(out)
    assert found.fingerprint == {"answers": "output files of falcon-perception"}
    assert found.answers["7/0"].targets[0].area == 100
