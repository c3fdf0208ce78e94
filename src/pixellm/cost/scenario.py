"""What is asked of a system, and what it answers: the lengths on which its cost depends."""

from collections.abc import Iterator
from dataclasses import dataclass

# With 256 image tokens, 74 tokens of text make a sequence of 330. LLaVA's system text takes some 40 of them.
SYSTEM_TOKENS = 40
PROMPT_TOKENS = 74
# Most descriptions in MUSE take 12 to 14 tokens.
PHRASE_TOKENS = 13


@dataclass(frozen=True)
class Scenario:
    """One image, one question, one answer.

    Args:
        prompt_tokens: text before the answer, system text and question; image tokens come on top.
        answer_tokens: text of the answer without what stands for masks.
        targets: masks in the answer.
        image_size: side in pixels of the square that masks are made from; None: each system's own.
        cache: keys and values are kept; otherwise image and text are read anew for every token, as the released code
            does it.
        system_tokens: the part of the prompt that all questions on an image share.
    """

    prompt_tokens: int = PROMPT_TOKENS
    answer_tokens: int = 3 * PHRASE_TOKENS
    targets: int = 3
    image_size: int | None = None
    cache: bool = True
    system_tokens: int = SYSTEM_TOKENS

    def __post_init__(self) -> None:
        if self.prompt_tokens <= self.system_tokens:
            raise ValueError(
                f"prompt tokens: expected more than the {self.system_tokens} of the system text, "
                f"got {self.prompt_tokens}."
            )
        if self.answer_tokens < 0 or self.targets < 0:
            raise ValueError(f"expected 0 or more, got {self.answer_tokens} answer tokens and {self.targets} targets.")

    @property
    def phrase_tokens(self) -> int:
        """Tokens that name one target."""
        return round(self.answer_tokens / max(1, self.targets))

    def steps(self, group: int) -> Iterator[tuple[bool, int]]:
        """The answer in its order, targets evenly spread: (is it a mask, tokens), `group` tokens for each mask."""
        written = 0
        for target in range(1, self.targets + 1):
            end = self.answer_tokens * target // self.targets
            yield from [(False, 1)] * (end - written)
            yield True, group
            written = end
        yield from [(False, 1)] * (self.answer_tokens - written)
