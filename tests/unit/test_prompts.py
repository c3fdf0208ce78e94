"""Prompts from the files of a checkpoint: its settings, and errors that name the directory (ids: test_tokens.py)."""

import json
from dataclasses import replace

import pytest

from pixellm.model.templates import CHATML
from pixellm.prompts import IMAGE_TOKEN_ID, PromptEncoder, PromptTemplate
from tests.support import tiny


@pytest.fixture
def directory(tmp_path):
    tiny.tiny_processor(56, 4).save_pretrained(tmp_path)
    return tmp_path


class Letters:
    """A tokenizer whose ids are the letters' code points; capital words are control tokens."""

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i < 1000)

    def token_id(self, token):
        return {"SEG0": 1000, "SEG1": 1001, "END": 1002}.get(token)


TEMPLATE = PromptTemplate(("SEG0", "SEG1"), 2, "s", "{system}<image>", "Q{question}A", "{answer}END", ("END",))


def test_ids_by_hand():
    prompts = PromptEncoder(Letters(), TEMPLATE)
    assert prompts.prefix_ids == [ord("s"), IMAGE_TOKEN_ID, IMAGE_TOKEN_ID]
    assert prompts.prompt_ids("END") == [ord(letter) for letter in "QENDA"]
    assert prompts.answer_ids("a {seg}b{seg}") == [ord("a"), 1000, 1001, ord("b"), 1000, 1001, 1002]
    assert (prompts.eos_ids, prompts.codebook_ids) == ([1002], [1000, 1001])
    assert prompts.decode_text([ord("a"), 1000, 1001, ord("b")]) == "ab"


def test_white_space_beside_control_tokens():
    prompts = PromptEncoder(Letters(), replace(TEMPLATE, strip_text=True))
    assert prompts.answer_ids(" a ") == [ord("a"), 1002]
    assert prompts.prompt_ids(" b ") == [ord(letter) for letter in "Q b A"]


def test_a_token_that_is_unknown():
    with pytest.raises(ValueError, match=r"expected control tokens that the tokenizer has, got \['NOPE'\]"):
        PromptEncoder(Letters(), replace(TEMPLATE, control_tokens=("NOPE",)))


def test_a_directory(directory):
    prompts = PromptEncoder.from_directory(directory)
    assert prompts.template.system == CHATML["system"]
    other = PromptEncoder.from_directory(directory, system="Be brief.")
    assert other.template == replace(prompts.template, system="Be brief.")
    assert other.prefix_ids != prompts.prefix_ids


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("content", ["{}", "[]", "", '{"a":', "[" * 100_000, None])
def test_files(directory, name, content):
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_text(content)
    with pytest.raises(ValueError, match=f"(?s)expected .*{directory}"):
        PromptEncoder.from_directory(directory)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num_image_tokens", "4"), ("codebook_tokens", 5), ("codebook_tokens", [5]), ("prompt", ""), ("prefix", "")),
        *(("answer", ""), ("prefix", "<image><image>"), ("system", None), ("strip_text", 1), ("num_image_tokens", -1)),
    ],
)
def test_settings(directory, name, value):
    file = directory / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=f"(?s)expected .*{directory}"):
        PromptEncoder.from_directory(directory)
