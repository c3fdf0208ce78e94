"""Common knowledge about annotated objects: attributes, look-alikes, absence.

Read by `grammar` to ask for objects without naming them ("What here can be eaten?") and to be sure that a category is
absent before an answer says so. The facts are in `attributes.yaml` and `categories`.

An attribute divides `CATEGORIES` in three: `members`, `ambiguous`, and all others, for which it does not hold. An image
with an ambiguous instance is never used for that attribute, nor is one with an instance outside `CATEGORIES`.
"""

from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pixellm.data.categories import CATEGORIES, COCO, GROUPS, OVERLAPS
from pixellm.data.describe import spoken

ATTRIBUTES_FILE = Path(__file__).with_name("attributes.yaml")
REQUIRED_FIELDS = ("holds", "questions")
OPTIONAL_FIELDS = ("ambiguous", "hints", "vocabularies")


@dataclass(frozen=True)
class Attribute:
    """Property of objects, and questions for it.

    Args:
        key: its name in `attributes.yaml`.
        questions: wordings that ask for everything that it holds for.
        members: the names that it holds for.
        ambiguous: the names for which it is a matter of opinion.
        hints: categories that make an unannotated member likely; an image with one is never said to have no member.
        vocabularies: sets of names. A source that annotates one of them whole leaves no member out.
    """

    key: str
    questions: tuple[str, ...]
    members: frozenset[str]
    ambiguous: frozenset[str]
    hints: frozenset[str]
    vocabularies: tuple[frozenset[str], ...]

    def missing(self, known: frozenset[str]) -> frozenset[str]:
        """Return the members that a source with the names `known` leaves out, by the vocabulary that it covers best."""
        return min((vocabulary - known for vocabulary in self.vocabularies), key=len)


@cache
def attributes() -> dict[str, Attribute]:
    """Return the attributes of `attributes.yaml` by key, in the file's order.

    Raises:
        ValueError: an entry is malformed.
    """
    return read_attributes(ATTRIBUTES_FILE)


def read_attributes(path: Path) -> dict[str, Attribute]:
    """Read and check a file like `attributes.yaml`, which says what its fields mean.

    Raises:
        ValueError: it is not YAML, or an entry is malformed.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a mapping of attributes, got {type(data).__name__}.")
    return {key: _attribute(key, entry, f"{path}: {key}") for key, entry in data.items()}


def _attribute(key: Any, entry: Any, where: str) -> Attribute:
    if not isinstance(key, str) or not isinstance(entry, dict):
        raise ValueError(f"{where}: expected a name and a mapping of fields, got {key!r} and {entry!r}.")
    missing, unknown = set(REQUIRED_FIELDS) - set(entry), set(entry) - {*REQUIRED_FIELDS, *OPTIONAL_FIELDS}
    if missing or unknown:
        raise ValueError(
            f"{where}: missing fields {sorted(missing)}, unknown fields {sorted(unknown, key=str)}. "
            f"Needed: {', '.join(REQUIRED_FIELDS)}; optional: {', '.join(OPTIONAL_FIELDS)}."
        )
    questions = _strings(entry["questions"], f"{where}: questions")
    members = _names(entry["holds"], f"{where}: holds")
    ambiguous = _names(entry.get("ambiguous", []), f"{where}: ambiguous")
    hints = _names(entry.get("hints", []), f"{where}: hints")
    # By default, a source that annotates those members that are categories of COCO leaves none out.
    vocabularies = entry.get("vocabularies", [sorted(members & frozenset(COCO))])
    if not isinstance(vocabularies, list):
        raise ValueError(f"{where}: vocabularies: expected a list of lists of names, got {vocabularies!r}.")
    words = tuple(_names(names, f"{where}: vocabularies[{i}]") for i, names in enumerate(vocabularies))
    if not (members and questions and words and all(words)):
        raise ValueError(f"{where}: expected holds, questions and vocabularies that are not empty. Fill them in.")
    if both := sorted(members & ambiguous):
        raise ValueError(f"{where}: {both} both hold and are ambiguous. Remove them from one of the two.")
    return Attribute(key, questions, members, ambiguous, hints, words)


def _names(values: Any, where: str) -> frozenset[str]:
    """Return a list of names and groups of names as a set of names."""
    names = frozenset(name for value in _strings(values, where) for name in GROUPS.get(value, (value,)))
    if unknown := sorted(names - CATEGORIES):
        raise ValueError(
            f"{where}: unknown names {unknown}. Add them to pixellm.data.categories, or mend the spelling."
        )
    return names


def _strings(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{where}: expected a list of strings, got {values!r}. Quote what YAML reads otherwise.")
    return tuple(values)


def related(name: str) -> frozenset[str]:
    """Return the names that share an attribute with `name`: likely to be mistaken for it, or beside it."""
    groups = (attribute.members for attribute in attributes().values() if name in attribute.members)
    return frozenset().union(*groups) - {name}


def overlapping(name: str) -> frozenset[str]:
    """Return the names that an object called `name` may also be called by."""
    return frozenset().union(*(group for group in OVERLAPS if name in group)) - {name}


def surely_absent(present: Set[str], known: Set[str]) -> list[str]:
    """Return the `known` names that nothing in an image with the names `present` can be called by, sorted."""
    maybe = frozenset(present).union(*(overlapping(name) for name in present))
    words = {spoken(name) for name in maybe}
    return sorted(name for name in known - maybe if spoken(name) not in words)
