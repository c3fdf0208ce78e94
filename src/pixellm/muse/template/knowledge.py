"""What things are for: read from the tables beside this file.

groups.yaml (kinds of things) → properties.yaml (what holds for them), activities.yaml (what they are used for together)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pixellm.data.categories import COCO

SLOT = "{things}"


@dataclass(frozen=True)
class Property:
    """Something that holds for things, and how to ask for all of them.

    Args:
        key: its name in the table.
        holds: names for which it is so.
        unclear: names for which it is a matter of opinion.
        questions: wordings that name nothing.
        answers: sentences with `{things}`, two or more.
        clause: what follows "all that", for questions that compare its members; None: there are none.
        need: what follows "somebody" who would be glad about a member; None: nobody would.
    """

    key: str
    holds: frozenset[str]
    unclear: frozenset[str]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    clause: str | None
    need: str | None


@dataclass(frozen=True)
class Activity:
    """What somebody wants to do.

    Args:
        key: its name in the table.
        questions: wordings that name nothing.
        parts: which names play a part, and a clause with `{things}` for what is done with them.
        needs: of these parts one must be there; empty: any will do.
        all: every part must be there.
    """

    key: str
    questions: tuple[str, ...]
    parts: tuple[tuple[frozenset[str], str], ...]
    needs: tuple[int, ...]
    all: bool


@cache
def groups() -> dict[str, frozenset[str]]:
    """Kinds of things, with those of the groups in them."""
    table = _read("groups.yaml")
    found: dict[str, frozenset[str]] = {}
    for key in table:
        _resolve(key, table, found, ())
    return found


@cache
def properties() -> tuple[Property, ...]:
    """In the order of the table."""
    return tuple(
        Property(
            *(key, holds := _names(row["holds"]), _names(row.get("unclear", [])) - holds),
            *(tuple(row["questions"]), _with_slot(row["answers"], key), row.get("clause"), row.get("need")),
        )
        for key, row in _read("properties.yaml").items()
    )


@cache
def activities() -> tuple[Activity, ...]:
    """In the order of the table."""
    found = []
    for key, row in _read("activities.yaml").items():
        clauses = _with_slot([clause for _, clause in row["parts"]], key)
        parts = tuple((_names(names), clause) for (names, _), clause in zip(row["parts"], clauses, strict=True))
        found.append(
            Activity(key, tuple(row["questions"]), parts, tuple(row.get("needs", ())), bool(row.get("all", False)))
        )
    return tuple(found)


def vocabulary() -> frozenset[str]:
    """Every name that a kind has."""
    return frozenset(COCO).union(*groups().values())


def _read(name: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((files(__package__) / name).read_text(encoding="utf-8"))


def _resolve(
    key: str, table: Mapping[str, list[str]], found: dict[str, frozenset[str]], above: tuple[str, ...]
) -> frozenset[str]:
    assert key not in above, f"groups.yaml: {key} is in itself"
    if key not in found:
        found[key] = frozenset().union(
            *(_resolve(one, table, found, (*above, key)) if one in table else {one} for one in table[key])
        )
    return found[key]


def _names(values: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*(groups().get(value, {value}) for value in values))


def _with_slot(sentences: Iterable[str], key: str) -> tuple[str, ...]:
    found = tuple(sentences)
    assert all(one.count(SLOT) == 1 for one in found), f"{key}: a sentence has not one {SLOT}"
    return found
