"""Model directories from outside, configuration, processor, tokenizer and headers of weights: a ValueError, at once."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pixellm
from pixellm.utils.weights import read_weights

WORDS = st.text([chr(code) for code in (0, 32, 91, 110, 233)], max_size=4)
VALUE = st.one_of(
    st.sampled_from([None, True, 0, -1, -5, 1, 2, 3, 1.5, 10**9, 2**63, "", "x", [], {}, [1], {"a": 1}]),
    st.integers(),
    st.floats(),
    WORDS,
    st.lists(st.integers(-2, 9), max_size=6),
)


@pytest.fixture(scope="module")
def saved(clip_model, clip_processor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    clip_model.save_pretrained(directory)
    clip_processor.save_pretrained(directory)
    return directory


def places(value, path=()):
    """Yield the paths of all fields of a JSON value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(original, data):
    """Return a copy with one to three fields replaced or left out."""
    copy = json.loads(json.dumps(original))
    for _ in range(data.draw(st.integers(1, 3))):
        *groups, name = data.draw(st.sampled_from(sorted(places(copy), key=str)))
        part = copy
        for group in groups:
            part = part[group]
        if isinstance(part, dict) and data.draw(st.booleans()):
            del part[name]
        else:
            part[name] = data.draw(VALUE)
        if not copy:
            break
    return copy


def outcome(directory):
    try:
        pixellm.load(directory)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
@settings(max_examples=10)  # a model is loaded for each
@given(data=st.data())
def test_settings(saved, name, data):
    kept = (saved / name).read_text()
    (saved / name).write_text(json.dumps(changed(json.loads(kept), data)))
    try:
        outcome(saved)
    finally:
        (saved / name).write_text(kept)


@given(data=st.data())
def test_headers(saved, tmp_path_factory, data):
    """Of safetensors, as our models and released checkpoints have them."""
    content = (saved / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(changed(json.loads(content[8 : 8 + length]), data)).encode()
    said = data.draw(st.sampled_from([len(header)] * 3 + [0, 1, len(header) - 1, 2**31, 2**63]))
    body = content[8 + length : data.draw(st.sampled_from([None, None, -1, 8 + length + 9]))]
    file = tmp_path_factory.mktemp("header") / "model.safetensors"
    file.write_bytes(said.to_bytes(8, "little") + header + body)
    try:
        read_weights(file)
    except ValueError:
        pass
    finally:
        shutil.rmtree(file.parent)
