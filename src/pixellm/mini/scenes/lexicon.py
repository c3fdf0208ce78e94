"""Names of objects that scenes are made of, their groups and overlaps (`lexicon.yaml`), and their nouns."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from pixellm.data.categories import OVERLAPS
from pixellm.data.describe import Noun, noun, spoken
from pixellm.data.templates import join

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def read_table(name: str) -> dict[str, Any]:
    """Read a YAML table of this package."""
    import yaml

    return yaml.safe_load((files(__package__) / name).read_text(encoding="utf-8"))


@cache
def _table() -> dict[str, Any]:
    return read_table("lexicon.yaml")


@cache
def groups() -> dict[str, frozenset[str]]:
    """Return the names of each group, narrow and wider ones."""
    resolved = {key: frozenset(names) for key, names in _table()["groups"].items()}
    for key, parts in _table()["wider"].items():  # in order: a wider group stands below its parts
        resolved[key] = frozenset().union(*(resolved.get(part, {part}) for part in parts))
    return resolved


@cache
def names() -> frozenset[str]:
    """Return all names whose facts are decided."""
    return frozenset(name for members in _table()["groups"].values() for name in members)


def resolve(values: Iterable[str], where: str) -> frozenset[str]:
    """Return names and groups as a set of names; "-NAME" takes names out again.

    Raises:
        ValueError: a name or group is unknown.
    """
    found: set[str] = set()
    for value in values:
        key = value.removeprefix("-")
        members = groups().get(key, frozenset({key}))
        if unknown := sorted(members - names()):
            raise ValueError(f"{where}: unknown names {unknown}. Add them to lexicon.yaml, or mend the spelling.")
        found = found - members if value.startswith("-") else found | members
    return frozenset(found)


@cache
def unlabelled() -> frozenset[str]:
    """Return names of common objects that datasets with few categories don't annotate."""
    return resolve(_table()["unlabelled"], "unlabelled")


@cache
def canonical(category: str) -> str:
    """Return the lexicon's name for a category; its spoken form where the lexicon has none."""
    word = spoken(category).lower()
    return _table()["same"].get(word, word)


@cache
def overlapping(category: str) -> frozenset[str]:
    """Return the names, canonical, that an object called `category` may also be called by."""
    name = canonical(category)
    sets: list[frozenset[str]] = [frozenset(map(canonical, group)) for group in OVERLAPS]
    sets += [frozenset(group) for group in _table()["overlaps"]]
    for generic, parts in _table()["generic"].items():
        sets += [frozenset({generic, part}) for part in resolve(parts, "generic")]
    return frozenset().union(*(group for group in sets if name in group)) - {name}


@cache
def noun_of(category: str) -> Noun:
    """Return the noun of a category, with the lexicon's names of stuff and irregular plurals."""
    word = spoken(category)
    irregular: Mapping[str, str] = _table()["irregular"]
    if word in _table()["mass"]:
        return Noun(word, word, countable=False)
    if word in irregular:
        return Noun(word, irregular[word], countable=True)
    return noun(category)


def there_is_no(categories: Sequence[str]) -> str:
    """Return "there is no dog and no cat"."""
    return f"there {noun_of(categories[0]).be(many=False)} {join([f'no {noun_of(c).singular}' for c in categories])}"


def number(count: int) -> str:
    """Return a count in words up to twelve, in digits above."""
    return NUMBERS[count] if count < len(NUMBERS) else str(count)
