"""Everything that a generation depends on, and the parts that it makes of it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pixellm.muse.calls import Calls
from pixellm.muse.journal import Journal
from pixellm.muse.prompts import Prompt
from pixellm.muse.quality import Rules as Checks
from pixellm.muse.scene import Engine, Scene
from pixellm.muse.selection import MISSING, Rules, Selection
from pixellm.muse.server.budget import Budget, Purse, journal_budget
from pixellm.muse.server.client import Client
from pixellm.muse.server.engine import ServerEngine
from pixellm.muse.server.settings import Settings
from pixellm.muse.source import FILE, Source, digests
from pixellm.muse.template import TemplateEngine

SAMPLE = 200  # photographs whose prompts are written for an estimate
REPLY_TOKENS = 120  # of a question with its answer


@dataclass(frozen=True)
class Plan:
    """A generation.

    Args:
        annotations: COCO or LVIS instances.
        images: folder of their photographs.
        captions: COCO captions, if there are any.
        rules: which photographs and things are asked about.
        questions: of a photograph.
        language: ISO 639-1 code.
        server: whom to ask; None: the rules of `pixellm.muse.template`.
        prompt: of the server, a variant of `pixellm.muse.prompts`.
        seed: of what the rules draw.
    """

    annotations: Path
    images: Path
    captions: Path | None
    rules: Rules
    questions: int
    language: str
    server: Settings | None
    prompt: str
    seed: int

    def __post_init__(self) -> None:
        if self.server and not Prompt(self.prompt).sees and self.captions is None:
            raise ValueError(f"expected captions for the prompt {self.prompt}, got none. Give --captions.")

    def about(self) -> dict[str, Any]:
        """What may not change between two runs that go on with each other; how much is asked may."""
        rules = {name: value for name, value in asdict(self.rules).items() if name != "images"}
        made = {"seed": self.seed}
        if self.server:
            made = {"model": self.server.model, "prompt": Prompt(self.prompt).name}
        kind = "server" if self.server else "template"
        return {
            **{"engine": kind, "questions": self.questions, "language": self.language},
            **(rules | made | digests(self.annotations, self.captions)),
        }

    def source(self, directory: Path) -> Source:
        """The index of the annotations, in a directory."""
        return Source.build(self.annotations, directory / FILE, self.captions)

    def selection(self, source: Source) -> Selection:
        return Selection(source, self.images, self.rules)

    def checks(self, source: Source) -> Checks:
        return Checks(language=self.language, others=source.things)

    def budget(self, journal: Journal) -> Budget | None:
        """Of the server, if there is one; what was spent before counts against its caps."""
        return journal_budget(self.server, journal) if self.server else None

    def client(self, purse: Purse | None) -> Client | None:
        """Of the server, if there is one."""
        return Client(self.server, purse) if self.server and purse else None

    def engine(self, client: Client | None, calls: Calls) -> Engine:
        if client is None:
            return TemplateEngine(self.images, self.questions, self.seed)
        return ServerEngine(client, calls, Prompt(self.prompt), self.images, self.questions)

    @property
    def in_flight(self) -> int:
        """Scenes at the same time."""
        return self.server.in_flight if self.server else 1

    def estimate(self, source: Source) -> "Estimate":
        """What a run would ask and cost; photographs are looked for, but none is sent."""
        found = Estimate(self.server)
        for chosen in self.selection(source):
            found.add(chosen.reason)
        found.tokens_in = self._tokens_in(one.scene for one in self.selection(source) if one.scene)
        found.tokens_out = REPLY_TOKENS * self.questions
        return found

    def _tokens_in(self, scenes: Iterator[Scene]) -> float:
        """Of a request, as a mean: four letters make a token, more or less."""
        if not self.server:
            return 0.0
        prompt = Prompt(self.prompt)
        sizes = []
        for scene in islice(scenes, SAMPLE):
            system, user = prompt.messages(scene, self.images, self.questions)
            words = len(system["content"]) + len(user["content"][-1]["text"])
            sizes.append(words / 4 + prompt.sees * self.server.image_tokens)
        return sum(sizes) / max(1, len(sizes))


@dataclass
class Estimate:
    """What a run would take; `tokens_in`, `tokens_out` of a request."""

    server: Settings | None
    images: int = 0
    missing: int = 0
    left_out: int = 0
    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def add(self, reason: str | None) -> None:
        """Count a photograph."""
        if reason is None:
            self.images += 1
        elif reason == MISSING:
            self.missing += 1
        else:
            self.left_out += 1

    def lines(self) -> list[str]:
        """In words."""
        found = [f"{self.images:,} photographs would be asked about, {self.left_out:,} would not"]
        if self.missing:
            found.append(f"{self.missing:,} image files are missing")
        if self.server:
            tokens = round(self.images * self.tokens_in), round(self.images * self.tokens_out)
            found.append(f"about {tokens[0]:,} tokens in and {tokens[1]:,} tokens out, if each is answered at once")
            if self.server.model in self.server.prices:
                cost = self.server.price.cost(*tokens)
                found.append(f"about {cost:,.2f} {self.server.currency}")
            else:
                found.append(f"no price of {self.server.model} is known: see --config")
        return found
