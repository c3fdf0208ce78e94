"""Prompts: templates and texts → token ids, and ids → text, without torch or transformers.

Control tokens (image, codebook, role markers, end) are placed by id. Everything that a user wrote is tokenised with
control tokens switched off, so that `<image>` or `</s>` in a question stays plain text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pixellm.types import SEG_SLOT, Answer
from pixellm.utils.checks import expect
from pixellm.utils.model_files import read_json, readable

if TYPE_CHECKING:
    pass

# Stands for one image token in `input_ids`; no text can produce it, since vocabularies have no negative ids.
IMAGE_TOKEN_ID = -200
IMAGE = "<image>"  # stands for all of them in a template
PROCESSOR_CONFIG, TOKENIZER = "processor_config.json", "tokenizer.json"  # in a model directory
KINDS: dict[type, tuple[Any, str]] = {  # in JSON, and their names in errors
    tuple: (list | tuple, "a list of tokens"),
    int: (int, "a whole number"),
    str: (str, "a text"),
    bool: (bool, "true or false"),
}
_FIELD = re.compile(r"\{(system|question|answer)\}")


class PlainTokenizer(Protocol):
    """Tokenizer that finds no control tokens in texts."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; control tokens in it are plain text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without control tokens."""
        ...

    def token_id(self, token: str) -> int | None:
        """Return the id of a token, or None if it is unknown."""
        ...


class FileTokenizer:
    """`PlainTokenizer` of a tokenizer.json, by the library tokenizers alone.

    Added tokens that are not special become so, as in `PixelLMProcessor`: only special ones can be switched off.

    A missing or malformed file is an error of that library's own, see `pixellm.utils.model_files.readable`.
    """

    def __init__(self, file: Path) -> None:
        from tokenizers import AddedToken, Tokenizer

        self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        added = self._tokenizer.get_added_tokens_decoder()
        plain = [added[token_id].content for token_id in sorted(added) if not added[token_id].special]
        self._tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in plain])
        self._tokenizer.encode_special_tokens = True  # like any other text
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; control tokens in it are plain text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without control tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def token_id(self, token: str) -> int | None:
        """Return the id of a token, or None if it is unknown."""
        return self._tokenizer.token_to_id(token)


@dataclass(frozen=True)
class PromptTemplate:
    """Prompt settings of a checkpoint, as its processor_config.json holds them.

    Args:
        codebook_tokens: the L·N tokens of a group, in order.
        num_image_tokens: tokens that one image takes in the language model.
        system: system prompt, plain text.
        prefix: template of what precedes the question, `{system}` in it; `<image>` marks the image.
        prompt: template of a question, `{question}`, up to where the answer begins.
        answer: template of an answer, `{answer}`, with the token that ends it.
        control_tokens: tokens of the templates that are control tokens, besides `<image>` and the codebook.
        strip_text: text next to a control token loses its white space there (LLaMA's released tokenizers).
    """

    codebook_tokens: tuple[str, ...] = ()
    num_image_tokens: int = 256
    system: str = ""
    prefix: str = ""
    prompt: str = ""
    answer: str = ""
    control_tokens: tuple[str, ...] = ()
    strip_text: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], source: object = "the settings") -> "PromptTemplate":
        """Take the fields from settings that may hold others, too; a ValueError, of `source`, if one is malformed."""
        values = {}
        for field in fields(cls):
            kind, what = KINDS[type(field.default)]
            value = expect(settings.get(field.name, field.default), kind, f"{what} as {field.name} in {source}")
            if isinstance(field.default, tuple):
                value = tuple(expect(token, str, f"tokens in {field.name} in {source}") for token in value)
            values[field.name] = value
        return cls(**values)

    def check_complete(self, source: object) -> None:
        """Raise a ValueError, of `source`, unless the templates make a prompt with an image, and an answer."""
        whole = self.prefix.count(IMAGE) == 1 and "{question}" in self.prompt and "{answer}" in self.answer
        if not whole or self.num_image_tokens < 1:
            raise ValueError(
                f"expected a prefix with one {IMAGE} of at least one token, a prompt with {{question}} and an answer "
                f"with {{answer}} in {source}, got {self.prefix!r:.60}, {self.prompt!r:.60} and {self.answer!r:.60}."
            )


class PromptEncoder:
    """Encoder of prompts and answers, and decoder of texts.

    Args:
        tokenizer: of the language model, with the codebook among its added tokens.
        template: prompt settings of the checkpoint.

    Raises:
        ValueError: the tokenizer lacks a control token of the template.
    """

    def __init__(self, tokenizer: PlainTokenizer, template: PromptTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template
        tokens = [*template.control_tokens, *template.codebook_tokens]
        known = {token: tokenizer.token_id(token) for token in tokens}
        self._control_ids = {token: token_id for token, token_id in known.items() if token_id is not None}
        if unknown := [token for token in known if token not in self._control_ids]:
            raise ValueError(f"expected control tokens that the tokenizer has, got {unknown}. Add them to it first.")
        self._control = re.compile("|".join(re.escape(token) for token in [IMAGE, *self._control_ids]))

    @classmethod
    def from_directory(cls, directory: Path, system: str | None = None) -> "PromptEncoder":
        """Read processor_config.json and tokenizer.json of a checkpoint.

        Args:
            directory: directory of the checkpoint.
            system: system prompt in place of the checkpoint's own; plain text.

        Raises:
            ValueError: a file is missing or malformed, or the templates make no prompt.
        """
        with readable(directory, f"a {PROCESSOR_CONFIG} and a {TOKENIZER}"):
            settings = directory / PROCESSOR_CONFIG
            template = PromptTemplate.of(read_json(settings), settings)
            template.check_complete(settings)
            return cls(
                FileTokenizer(directory / TOKENIZER), template if system is None else replace(template, system=system)
            )

    @property
    def codebook_ids(self) -> list[int]:
        """Ids of a codebook group, in order."""
        return [self._control_ids[token] for token in self.template.codebook_tokens]

    @property
    def prefix_ids(self) -> list[int]:
        """Ids of system text and image, shared by all questions; the image's positions hold `IMAGE_TOKEN_ID`."""
        ids = self.encode(self.template.prefix, system=self.template.system)
        at = ids.index(IMAGE_TOKEN_ID)
        return [*ids[:at], *[IMAGE_TOKEN_ID] * self.template.num_image_tokens, *ids[at + 1 :]]

    @property
    def eos_ids(self) -> list[int]:
        """Ids that end an answer: the last control token of the answer template."""
        return self.encode(self.template.answer, answer="")[-1:]

    def prompt_ids(self, question: str, history: Sequence[Answer] = ()) -> list[int]:
        """Ids of a question, up to where the answer begins; `history`: what was asked and answered before it.

        All text of the history is plain text. A codebook group stands where a target's phrase ends.
        """
        past = [self.encode(self.template.prompt, question=one.question) + self._answered_ids(one) for one in history]
        return [*chain.from_iterable(past), *self.encode(self.template.prompt, question=question)]

    def _answered_ids(self, answer: Answer) -> list[int]:
        cuts = [0, *sorted(target.span[1] for target in answer.targets), len(answer.text)]
        return self.encode(self.template.answer, answer=[answer.text[start:end] for start, end in pairwise(cuts)])

    def answer_ids(self, answer: str) -> list[int]:
        """Ids of a training answer, in which every `{seg}` becomes a codebook group, with the token that ends it."""
        return self.encode(self.template.answer, answer=answer.split(SEG_SLOT))

    def encode(self, template: str, **fields: str | Sequence[str]) -> list[int]:
        """Tokenise a template: its control tokens by id, runs of text between them with what users wrote put in.

        Between the pieces of a field that has several there is a codebook group.
        """
        runs: list[int | str] = [""]

        def control(ids: list[int]) -> None:
            runs.extend([*ids, ""])

        def literal(text: str) -> None:
            position = 0
            for match in self._control.finditer(text):
                runs[-1] += text[position : match.start()]
                control([IMAGE_TOKEN_ID if match.group() == IMAGE else self._control_ids[match.group()]])
                position = match.end()
            runs[-1] += text[position:]

        for index, piece_or_field in enumerate(_FIELD.split(template)):
            if index % 2 == 0:
                literal(piece_or_field)
                continue
            pieces = fields[piece_or_field]
            for slot, piece in enumerate([pieces] if isinstance(pieces, str) else pieces):
                if slot:
                    # No space token between a phrase and its mask: the state before a group is the phrase's last word.
                    runs[-1] = runs[-1].rstrip() if isinstance(runs[-1], str) else runs[-1]
                    control(self.codebook_ids)
                runs[-1] += piece
        ids: list[int] = []
        for index, run in enumerate(runs):
            ids.extend(self._run_ids(run, before=index < len(runs) - 1) if isinstance(run, str) else [run])
        return ids

    def _run_ids(self, text: str, before: bool) -> list[int]:
        """Return the ids of a run of plain text that follows a control token, and stands `before` one or at the end."""
        if self.template.strip_text:
            text = text.strip() if before else text.lstrip()
        return self.tokenizer.encode(text) if text else []

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of ids without codebook tokens; control tokens are dropped."""
        return self.tokenizer.decode(ids)
