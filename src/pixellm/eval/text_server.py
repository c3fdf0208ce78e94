"""Ratings by a language model behind any OpenAI-compatible server: cached on disk, within a budget.

One request rates one phrase–mask pair. What was rated once is never asked again, so an evaluation that stops (a budget
is used up, the server is down) goes on from there.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from pixellm.eval.text_rater import BEST, WORST, PairText
from pixellm.utils.openai_client import connect

if TYPE_CHECKING:
    from openai import OpenAI

logger = logging.getLogger(__name__)

PROMPT_VERSION = 1  # part of every cache key
SYSTEM = (
    "You judge answers to questions about images. An answer names things and shows each with a mask. You are told "
    "which object the mask really covers. Rate from 1 to 10 how well the words for the mask fit that object in this "
    "answer: 10, they clearly mean it; 1, they mean something else. Reply with the number alone."
)
WORKERS = 8  # requests at the same time


@dataclass
class Budget:
    """How much may be asked: requests and tokens (as the server counts them); None: any number."""

    calls: int | None = None
    tokens: int | None = None
    used_calls: int = 0
    used_tokens: int = 0

    def take(self) -> None:
        """Count a request before it is made.

        Raises:
            ValueError: nothing is left.
        """
        calls = self.calls is not None and self.used_calls >= self.calls
        if calls or (self.tokens is not None and self.used_tokens >= self.tokens):
            raise ValueError(
                f"expected ratings within the budget, which is used up: {self.used_calls} calls, {self.used_tokens} "
                "tokens. Call it again with a larger --max-calls or --max-tokens: what is rated is kept."
            )
        self.used_calls += 1


@dataclass
class ServerRater:
    """Asks `model` at `url`.

    Args:
        model: its name at the server.
        url: see `pixellm.utils.openai_client.connect`.
        cache: JSON-lines file of ratings; None: they are not kept.
        budget: see there.
    """

    model: str
    url: str | None = None
    cache: Path | None = None
    budget: Budget = field(default_factory=Budget)
    unreadable: int = field(default=0, init=False)  # replies without a rating, which count as the worst

    def __post_init__(self) -> None:
        self._known = _read(self.cache)
        self._lock = Lock()

    @property
    def fingerprint(self) -> dict[str, Any]:
        used = {"calls": self.budget.used_calls, "tokens": self.budget.used_tokens}
        return {"rater": self.model, "version": PROMPT_VERSION, **used, "unreadable replies": self.unreadable}

    def rate(self, pairs: Sequence[PairText]) -> list[int]:
        """A rating of 1–10 for each pair.

        Raises:
            ValueError: the budget is used up, or the server can't be reached or refuses.
        """
        prompts = {self._key(prompt := _prompt(pair)): prompt for pair in pairs}
        new = [(key, prompt) for key, prompt in prompts.items() if key not in self._known]
        if new:
            client = connect(self.url)
            logger.info("%s: %d ratings to ask for, %d are known", self.model, len(new), len(prompts) - len(new))
            with ThreadPoolExecutor(WORKERS) as pool:
                jobs = [pool.submit(self._ask, client, *one) for one in new]
                try:
                    for job in jobs:
                        job.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)  # those that are under way are kept
                    raise
        return [self._known[self._key(_prompt(pair))] for pair in pairs]

    def _ask(self, client: "OpenAI", key: str, prompt: str) -> None:
        from openai import OpenAIError

        with self._lock:
            self.budget.take()
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        try:
            reply = client.chat.completions.create(model=self.model, messages=messages, temperature=0.0)
        except OpenAIError as error:
            where = self.url or "the OpenAI API"
            raise ValueError(
                f"expected a rating from {self.model} at {where}, got {str(error)[:200]}. "
                "Check URL, model and OPENAI_API_KEY; what is rated is kept."
            ) from None
        with self._lock:
            self.budget.used_tokens += reply.usage.total_tokens if reply.usage else 0
        self._keep(key, (reply.choices[0].message.content or "") if reply.choices else "")

    def _keep(self, key: str, reply: str) -> None:
        rating = _rating(reply)
        with self._lock:
            self._known[key] = WORST if rating is None else rating
            if rating is None:  # not kept on disk: the next evaluation asks again
                self.unreadable += 1
                logger.warning("%s: expected a rating of %d–%d, got %r: %d", self.model, WORST, BEST, reply[:80], WORST)
                return
            if self.cache is not None:
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
    thought = re.sub(r"<think>.*?</think>", "", reply, flags=re.DOTALL)
    numbers = re.findall(r"(?<![\d./-])\d+(?:\.\d+)?", re.sub(r"/\s*10\b", "", thought))
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
