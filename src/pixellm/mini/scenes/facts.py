"""Facts a person would use about objects (`facts.yaml`): their use, their parts, their groups.

A fact divides `lexicon.names()` in three: `members`, `maybe` (a matter of opinion), and all others, where it is false.
"""

import re
from dataclasses import dataclass
from functools import cache

from pixellm.mini.scenes.lexicon import read_table, resolve, there_is_no

FACT_KINDS = ("use", "has", "group")
FIELDS = frozenset(("kind", "holds", "maybe", "that", "say", "ask", "none", "noun"))


@dataclass(frozen=True)
class Fact:
    """One fact, with questions that name no member.

    Args:
        key: its name in the table.
        kind: one of `FACT_KINDS`.
        members: the names that it holds for.
        maybe: the names for which it is a matter of opinion.
        that: predicate of a single thing: "has wheels".
        say: the answer, with {x} for the members present, and {is}, {has}, {does}, {s} that agree with them.
        asks: questions, each a sentence or two.
        none: the answer where no member is present.
        noun: for a group, the singular word for a member; "" if there is none.
    """

    key: str
    kind: str
    members: frozenset[str]
    maybe: frozenset[str]
    that: str
    say: str
    asks: tuple[str, ...]
    none: str
    noun: str


@cache
def facts() -> tuple[Fact, ...]:
    """Return the facts in the order of the table.

    Raises:
        ValueError: an entry is malformed.
    """
    return tuple(_fact(key, row) for key, row in read_table("facts.yaml").items())


def _fact(key: str, row: dict) -> Fact:
    where = f"facts.yaml: {key}"
    if unknown := sorted(set(row) - FIELDS):
        raise ValueError(f"{where}: unknown fields {unknown}. Known: {', '.join(sorted(FIELDS))}.")
    holds = resolve(row["holds"], where)
    maybe = resolve(row.get("maybe", ()), where) - holds
    asks = tuple(row["ask"])
    if row["kind"] not in FACT_KINDS or "{x}" not in row["say"] or len(asks) < 4 or not holds:
        raise ValueError(f"{where}: expected a known kind, members, {{x}} in `say` and four questions or more.")
    if bad := [ask for ask in asks if not re.search(r"[.?]$", ask)]:
        raise ValueError(f"{where}: questions without an end: {bad}.")
    # What is missing is named, if it can only be one thing.
    few = f"{there_is_no(sorted(holds))} here." if len(holds) == 1 else f"nothing here {row['that']}."
    none = row.get("none", few[0].upper() + few[1:])
    return Fact(key, row["kind"], holds, maybe, row["that"], row["say"], asks, none, row.get("noun", ""))
