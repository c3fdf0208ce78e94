"""The code gives what it gave when the golden results were recorded (README.md here)."""

import copy

import pytest

from . import SHARED, store
from .record import GOLDEN, Golden, compare, made


@pytest.mark.parametrize(
    "golden", [pytest.param(one, id=one.name, marks=pytest.mark.slow if one.slow else ()) for one in GOLDEN]
)
def test_as_recorded(golden: Golden, tmp_path) -> None:
    if golden.shared and not SHARED.is_dir():
        pytest.skip(f"{golden.name} needs the data beside the project, which are not here")
    different = compare(golden, made(golden, tmp_path / golden.name))
    assert not different, "\n".join(different[:20])


def test_every_file_is_of_a_result() -> None:
    assert {path.stem for path in store.RECORDED.glob("*.json")} == {golden.name for golden in GOLDEN}


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_a_change_of_any_part_is_seen(golden: Golden) -> None:
    """Of some parts of what is recorded one value is changed: the comparison has to name it."""
    _, recorded = store.read(golden.name)
    places = list(_first_leaves(recorded))
    for place in places[:: 1 + len(places) // 20]:
        changed = copy.deepcopy(recorded)
        *above, last = place
        holder = changed
        for key in above:
            holder = holder[key]
        holder[last] = _other(holder[last])
        (line,) = store.differences(recorded, changed)
        assert line.startswith("/" + "/".join(map(str, place)))


def test_noise_is_for_numbers_alone() -> None:
    recorded = {"loss": 2.0, "text": "a cat", "mask_sha256": "ab", "ids": [1, 2]}
    near = recorded | {"loss": 2.01, "mask_sha256": "cd"}
    assert not list(store.differences(recorded, near, noise=0.01))
    assert len(list(store.differences(recorded, near))) == 2
    for change in ({"loss": 2.1}, {"text": "a dog"}, {"ids": [1]}, {"ids": [1, 2.0001, 3]}):
        assert list(store.differences(recorded, recorded | change, noise=0.01))


def _first_leaves(value, place=()):
    """The first leaf below each key on the first two levels."""
    if not isinstance(value, dict | list):
        yield place
        return
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, one in items if len(place) < 2 else items[:1]:
        yield from _first_leaves(one, (*place, key))


def _other(value):
    """A value next to this one."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, str):
        return f"{value}."
    return value + 1 if isinstance(value, int) else value * (1 + 1e-12) + 1e-300
