"""Settings of sampling, for any runtime."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Choice of the next token, and the end of an answer.

    Args:
        max_new_tokens: budget of tokens; a codebook group that has begun is always completed.
        temperature: 0 takes the most probable token (greedy), > 0 samples.
        top_k, top_p: sample from the k most probable tokens, from those that make up the probability p.
        repetition_penalty: > 1 makes used tokens less likely.
        no_repeat_ngram_size: > 0: no run of this many tokens, codebook groups included, occurs twice.
        seed: sampling seed.
        processors: further logits processors of transformers; they see a row's text ids (1, length) and scores (1, V).
        stopping: further stopping criteria of transformers; they see the same ids.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    seed: int = 0
    processors: tuple = ()
    stopping: tuple = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: expected at least 1, got {self.max_new_tokens}.")
        if self.temperature < 0:
            raise ValueError(f"temperature: expected 0 (greedy) or more, got {self.temperature}.")
