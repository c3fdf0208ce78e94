"""Tables of what objects are for.

groups.yaml (groups of categories) → properties.yaml (what holds for them), activities.yaml (what they are used for)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

SLOT = "{objects}"  # in the tables


@dataclass(frozen=True)
class Property:
    """Property of objects, with questions that ask for all that have it.

    Args:
        key: name in the table.
        holds: categories that have it.
        unclear: categories for which it is a matter of opinion.
        questions: wordings that name no category.
        answers: sentences with `SLOT`.
        clause: continues "all that", for questions that compare its members; None: there are none.
        need: continues "somebody" who would be glad about a member; None: nobody would.
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
    """Activity for which several objects are used.

    Args:
        key: name in the table.
        questions: wordings that name no category.
        parts: categories that play a part, and a clause with `SLOT` for their use.
        needs: numbers of parts of which one must be present; empty: any will do.
        all: every part must be present.
    """

    key: str
    questions: tuple[str, ...]
    parts: tuple[tuple[frozenset[str], str], ...]
    needs: tuple[int, ...]
    all: bool


@cache
def groups() -> dict[str, frozenset[str]]:
    """Return the categories of each group, those of nested groups among them."""
    table = _read("groups.yaml")
    resolved: dict[str, frozenset[str]] = {}
    for key in table:
        _resolve(key, table, resolved, ())
    return resolved


@cache
def properties() -> tuple[Property, ...]:
    """Return the properties in the order of the table."""
    return tuple(
        Property(
            *(key, holds := _names(row["holds"]), _names(row.get("unclear", [])) - holds),
            *(tuple(row["questions"]), _with_slot(row["answers"], key), row.get("clause"), row.get("need")),
        )
        for key, row in _read("properties.yaml").items()
    )


@cache
def activities() -> tuple[Activity, ...]:
    """Return the activities in the order of the table."""
    rows = []
    for key, row in _read("activities.yaml").items():
        clauses = _with_slot([clause for _, clause in row["parts"]], key)
        parts = tuple((_names(names), clause) for (names, _), clause in zip(row["parts"], clauses, strict=True))
        needs, everything = tuple(row.get("needs", ())), bool(row.get("all", False))
        rows.append(Activity(key, tuple(row["questions"]), parts, needs, everything))
    return tuple(rows)


def _read(name: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((files(__package__) / name).read_text(encoding="utf-8"))


def _resolve(
    key: str, table: Mapping[str, list[str]], resolved: dict[str, frozenset[str]], above: tuple[str, ...]
) -> frozenset[str]:
    assert key not in above, f"groups.yaml: {key} is in itself"
    if key not in resolved:
        members = (_resolve(name, table, resolved, (*above, key)) if name in table else {name} for name in table[key])
        resolved[key] = frozenset().union(*members)
    return resolved[key]


def _names(values: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*(groups().get(value, {value}) for value in values))


def _with_slot(sentences: Iterable[str], key: str) -> tuple[str, ...]:
    checked = tuple(sentences)
    assert all(sentence.count(SLOT) == 1 for sentence in checked), f"{key}: expected one {SLOT} in each sentence"
    return checked
