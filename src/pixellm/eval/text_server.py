"""Ratings by a language model behind any OpenAI-compatible server: cached on disk, within a budget.

One request rates one phrase–mask pair. What was rated once is never asked again, so an evaluation that stops (a budget
is used up, the server is down) goes on from there.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixellm.eval.text_rater import BEST, WORST, PairText
from pixellm.utils.budget import Budget
from pixellm.utils.chat_protocol import without_thoughts
from pixellm.utils.job_runner import JobRunner, run_blocking
from pixellm.utils.openai_client import ChatClient
from pixellm.utils.server_settings import ServerSettings

logger = logging.getLogger(__name__)

PROMPT_VERSION = 1  # part of every cache key
SYSTEM = (
    "You judge answers to questions about images. An answer names things and shows each with a mask. You are told "
    "which object the mask really covers. Rate from 1 to 10 how well the words for the mask fit that object in this "
    "answer: 10, they clearly mean it; 1, they mean something else. Reply with the number alone."
)
IN_FLIGHT = 8  # requests at the same time
TIMEOUT = 600.0  # seconds of a request: models that think aloud take their time
MAX_OUTPUT = 2000  # tokens of a reply, where a cap on tokens makes it necessary to limit them


@dataclass
class ServerRater:
    """Rater that asks `model` at `url`.

    Args:
        model: name of the model at the server.
        url: see `ServerSettings`.
        cache: JSON-lines file of ratings; None: they are not kept.
        budget: caps on calls and tokens.
    """

    model: str
    url: str | None = None
    cache: Path | None = None
    budget: Budget = field(default_factory=Budget)
    unreadable: int = field(default=0, init=False)  # replies without a rating, which count as the worst

    def __post_init__(self) -> None:
        self._known = _read(self.cache)
        self._settings = ServerSettings(
            model=self.model,
            url=self.url,
            in_flight=IN_FLIGHT,
            timeout=TIMEOUT,
            max_output=None if self.budget.max_tokens is None else MAX_OUTPUT,
            temperature=0.0,
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        used = {"calls": self.budget.calls, "tokens": self.budget.tokens}
        return {"rater": self.model, "version": PROMPT_VERSION, **used, "unreadable replies": self.unreadable}

    def rate(self, pairs: Sequence[PairText]) -> list[int]:
        """Return a rating of 1–10 for each pair.

        Raises:
            ValueError: the budget is used up, or the server can't be reached or refuses.
        """
        prompts = {self._key(prompt := _prompt(pair)): prompt for pair in pairs}
        new = [(key, prompt) for key, prompt in prompts.items() if key not in self._known]
        if new:
            logger.info("%s: %d ratings to ask for, %d are known", self.model, len(new), len(prompts) - len(new))
            runner = JobRunner(IN_FLIGHT, max_failures=1)
            try:
                run_blocking(self._ask_all(runner, new), lambda: runner.stop("interrupted"))
            except ValueError as error:
                raise self._failed(error) from None
            if runner.stopped:
                raise self._failed(next(iter(runner.failures), runner.stopped))
        return [self._known[self._key(_prompt(pair))] for pair in pairs]

    def _failed(self, reason: object) -> ValueError:
        return ValueError(
            f"expected a rating from {self.model} at {self._settings.where}, got none: {reason} "
            "Ratings so far are kept."
        )

    async def _ask_all(self, runner: JobRunner, new: Sequence[tuple[str, str]]) -> None:
        async with ChatClient(self._settings, self.budget) as client:

            async def ask(job: tuple[str, str]) -> None:
                key, prompt = job
                reply = await client.ask([{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}])
                self._keep(key, reply.text)

            await runner.run(new, ask)

    def _keep(self, key: str, reply: str) -> None:
        rating = _rating(reply)
        self._known[key] = WORST if rating is None else rating
        if rating is None:  # not kept on disk: the next evaluation asks again
            self.unreadable += 1
            logger.warning("%s: expected a rating of %d–%d, got %r: %d", self.model, WORST, BEST, reply[:80], WORST)
        elif self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.open("a", encoding="utf-8") as file:  # newlines on both sides: the last may be cut off
                file.write("\n" * (file.tell() > 0) + json.dumps({"key": key, "rating": rating}) + "\n")

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(json.dumps([PROMPT_VERSION, self.model, SYSTEM, prompt]).encode()).hexdigest()


def _prompt(pair: PairText) -> str:
    x, y, width, height = pair.box
    return (
        f"Image: {pair.hw[1]} pixels wide, {pair.hw[0]} high.\n"
        f"Question: {pair.question}\n"
        f"Answer, with what each mask really covers in brackets: {pair.answer}\n"
        f"Words for this mask: {pair.phrase}\n"
        f"The mask covers: {pair.description} ({pair.category}), x {x} to {x + width}, y {y} to {y + height}.\n"
        "Rating:"
    )


def _rating(reply: str) -> int | None:
    """The last number of 1–10 in a reply, "8" of "8/10" too: models that think aloud end with it; None without one."""
    text = re.sub(r"/\s*10\b", "", without_thoughts(reply))
    numbers = re.findall(r"(?<![\d./-])\d+(?:\.\d+)?", text)
    ratings = [float(number) for number in numbers if WORST <= float(number) <= BEST]
    return round(ratings[-1]) if ratings else None


def _read(cache: Path | None) -> dict[str, int]:
    """Ratings that are there already; a line that an interruption cut off is none."""
    if cache is None or not cache.is_file():
        return {}
    known = {}
    for line in filter(None, cache.read_text(encoding="utf-8").splitlines()):
        try:
            row = json.loads(line)
            known[row["key"]] = int(row["rating"])
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: a line that is no rating is left out", cache)
    return known
