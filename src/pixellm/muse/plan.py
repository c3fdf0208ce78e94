"""Plan of a generation: everything that it depends on, and the parts that are made of it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pixellm.muse.annotation_index import FILE, AnnotationIndex, digests
from pixellm.muse.generation import MuseEngine
from pixellm.muse.journal import Journal
from pixellm.muse.prompts import Prompt
from pixellm.muse.quality.checks import QualityRules
from pixellm.muse.records import ImageAnnotations
from pixellm.muse.selection import MISSING, Selection, SelectionRules
from pixellm.muse.template.engine import TemplateEngine
from pixellm.muse.vlm.engine import VlmEngine
from pixellm.muse.vlm.reply_cache import ReplyCache, journal_budget
from pixellm.utils.budget import Budget, BudgetProtocol
from pixellm.utils.openai_client import ChatClient
from pixellm.utils.server_settings import ServerSettings

SAMPLE = 200  # images whose prompts are written for an estimate
REPLY_TOKENS = 120  # of a question with its answer


@dataclass(frozen=True)
class GenerationPlan:
    """Plan of a generation.

    Args:
        annotations: COCO or LVIS instances.
        images: folder of their images.
        captions: COCO captions, if there are any.
        rules: which images and instances are asked about.
        questions: questions about an image.
        language: ISO 639-1 code.
        server: server to ask; None: the rules of `pixellm.muse.template`.
        prompt: variant of `pixellm.muse.prompts`, for the server.
        seed: sampling seed of the rules.
    """

    annotations: Path
    images: Path
    captions: Path | None
    rules: SelectionRules
    questions: int
    language: str
    server: ServerSettings | None
    prompt: str
    seed: int

    def __post_init__(self) -> None:
        if self.server and not Prompt(self.prompt).with_image and self.captions is None:
            raise ValueError(f"expected captions for the prompt {self.prompt}, got none. Give --captions.")

    def about(self) -> dict[str, Any]:
        """Return what may not change between runs of one generation; the number of images may."""
        rules = {name: value for name, value in asdict(self.rules).items() if name != "images"}
        rules["max_things"] = rules.pop("max_instances")  # its name in journals
        origin = {"seed": self.seed}
        if self.server:
            origin = {"model": self.server.model, "prompt": Prompt(self.prompt).name}
        return {
            **{"engine": "server" if self.server else "template"},
            **{"questions": self.questions, "language": self.language},
            **(rules | origin | digests(self.annotations, self.captions)),
        }

    def index(self, directory: Path) -> AnnotationIndex:
        """Return the index of the annotations in a directory; build it if need be."""
        return AnnotationIndex.build(self.annotations, directory / FILE, self.captions)

    def selection(self, index: AnnotationIndex) -> Selection:
        return Selection(index, self.images, self.rules)

    def checks(self, index: AnnotationIndex) -> QualityRules:
        return QualityRules(language=self.language, others=index.instances)

    def budget(self, journal: Journal) -> Budget | None:
        """Return the server's budget, if there is a server; earlier runs count against its caps."""
        return journal_budget(self.server, journal) if self.server else None

    def client(self, budget: BudgetProtocol | None) -> ChatClient | None:
        return ChatClient(self.server, budget) if self.server and budget else None

    def engine(self, client: ChatClient | None, cache: ReplyCache) -> MuseEngine:
        if client is None:
            return TemplateEngine(self.images, self.questions, self.seed)
        return VlmEngine(client, cache, Prompt(self.prompt), self.images, self.questions)

    @property
    def in_flight(self) -> int:
        """Images at the same time."""
        return self.server.in_flight if self.server else 1

    def estimate(self, index: AnnotationIndex) -> "CostEstimate":
        """Estimate tokens and cost; image files are looked for, but none is sent."""
        estimate = CostEstimate(self.server)
        for candidate in self.selection(index):
            estimate.add(candidate.reason)
        estimate.tokens_in = self._tokens_in(row.annotated for row in self.selection(index) if row.annotated)
        estimate.tokens_out = REPLY_TOKENS * self.questions
        return estimate

    def _tokens_in(self, images: Iterator[ImageAnnotations]) -> float:
        """Estimate the mean tokens of a request: about four letters make a token."""
        if not self.server:
            return 0.0
        prompt = Prompt(self.prompt)
        sizes = []
        for image in islice(images, SAMPLE):
            system, user = prompt.messages(image, self.images, self.questions)
            letters = len(system["content"]) + len(user["content"][-1]["text"])
            sizes.append(letters / 4 + prompt.with_image * self.server.image_tokens)
        return sum(sizes) / max(1, len(sizes))


@dataclass
class CostEstimate:
    """Estimate of a generation; `tokens_in` and `tokens_out` are those of one request."""

    server: ServerSettings | None
    images: int = 0
    missing: int = 0
    left_out: int = 0
    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def add(self, reason: str | None) -> None:
        """Count an image; `reason`: why it is left out."""
        if reason is None:
            self.images += 1
        elif reason == MISSING:
            self.missing += 1
        else:
            self.left_out += 1

    def lines(self) -> list[str]:
        """Return the estimate in words."""
        lines = [f"{self.images:,} images would be asked about, {self.left_out:,} would not"]
        if self.missing:
            lines.append(f"{self.missing:,} image files are missing")
        if self.server:
            tokens = round(self.images * self.tokens_in), round(self.images * self.tokens_out)
            lines.append(f"about {tokens[0]:,} tokens in and {tokens[1]:,} tokens out, if each is answered at once")
            if self.server.model in self.server.prices:
                lines.append(f"about {self.server.price.cost(*tokens):,.2f} {self.server.currency}")
            else:
                lines.append(f"no price of {self.server.model} is known: see --config")
        return lines
