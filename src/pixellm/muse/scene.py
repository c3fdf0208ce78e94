"""What an engine gets, and what it gives: a photograph with things to ask about, and questions on them.

annotations → Scene → Engine → Made → checks → journal
"""

from dataclasses import dataclass
from typing import Protocol

from pixellm.muse.journal import Reject
from pixellm.muse.records import MuseImage, MuseRecord, MuseTarget


@dataclass(frozen=True)
class Scene:
    """A photograph and the things in it.

    Args:
        image: the photograph.
        things: those that may be asked about, two or more, by annotation id; their descriptions are empty.
        others: all else that is annotated, too small or a crowd: not to be asked about, but there.
        complete: categories of which every instance in the photograph is annotated, absent ones among them.
        captions: what people wrote about the photograph, if the source has that.
        exhaustive: whether the annotators looked for all categories of the source in it.
    """

    image: MuseImage
    things: tuple[MuseTarget, ...]
    others: tuple[MuseTarget, ...] = ()
    complete: frozenset[str] = frozenset()
    captions: tuple[str, ...] = ()
    exhaustive: bool = True


@dataclass(frozen=True)
class Made:
    """What came of a scene: records, what did not pass, and the reason where nothing was asked."""

    records: tuple[MuseRecord, ...] = ()
    rejects: tuple[Reject, ...] = ()
    reason: str | None = None


class BudgetError(ValueError):
    """Nothing more can be asked under the caps; what was answered is kept."""


class RefusedError(ValueError):
    """Whatever is asked is refused: a wrong key, model or address."""


class Engine(Protocol):
    """Asks about scenes. The same scene gives the same questions, as far as the engine's model allows."""

    async def ask(self, scene: Scene) -> Made:
        """Questions about the things of a scene, with answers. Records have ids IMAGE_ID/NUMBER, from 1."""
        ...
