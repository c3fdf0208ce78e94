"""Prompts and answers in the base's own chat template: what users wrote stays text, whatever control tokens there are.

A prompt is rendered by the base's template and tokenised as the base's processor does. Only where a user's text holds
the text of a control token, that text is put in piece by piece, with control tokens switched off.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AddedToken, AutoProcessor

from pixellm.backbones.families import adapter_for
from pixellm.backbones.modeling import BackboneBatch, ImageInputs
from pixellm.model.training_rows import Turn, batch_of_rows, training_row
from pixellm.types import SEG_SLOT, Answer, Conversation, Sample
from pixellm.utils.model_files import readable

SETTINGS, BASE = "processor_config.json", "base_processor"
# Stand for texts of users in a rendered template; a private-use character, so that no template has it.
_OPEN, _CLOSE = "\ue000", "\ue001"
_FIELD = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
Said = tuple[str, list[str]]  # a question, and its answer cut where a codebook group stands


class BackboneProcessor:
    """A base's processor with codebook tokens.

    Args:
        base: the base's processor; its tokenizer has the codebook tokens.
        model_type: of the base.
        codebook_tokens: the L·N tokens of a group, in order.
        eos_ids: ids that end an answer.
        system: system prompt; empty: none is given, and the template may put its own.
    """

    def __init__(
        self, base: Any, model_type: str, codebook_tokens: Sequence[str], eos_ids: Sequence[int], system: str = ""
    ) -> None:
        self.base, self.model_type, self.system = base, model_type, system
        self.adapter = adapter_for(model_type)
        self.codebook_tokens, self.eos_ids = list(codebook_tokens), list(eos_ids)
        self.tokenizer = base.tokenizer
        added = sorted((str(token) for token in self.tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, added)))
        # Switching control tokens off works for special ones only; that they are special must not change decoding.
        self._plain = copy.deepcopy(self.tokenizer)
        self._plain.add_tokens([AddedToken(t, special=True, normalized=False) for t in added], special_tokens=True)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **_settings: object) -> "BackboneProcessor":
        """Load the processor of a checkpoint directory; a ValueError if its files are malformed."""
        directory = Path(pretrained_model_name_or_path)
        with readable(directory, f"a {SETTINGS} and a {BASE}"):
            settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
            fields = {name: settings[name] for name in ("model_type", "codebook_tokens", "eos_ids", "system")}
            return cls(AutoProcessor.from_pretrained(directory / BASE), **fields)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the base's processor into a folder of its own, and our settings beside it."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.base.save_pretrained(directory / BASE)
        settings = {
            "processor_class": type(self).__name__,
            "model_type": self.model_type,
            "codebook_tokens": self.codebook_tokens,
            "eos_ids": self.eos_ids,
            "system": self.system,
        }
        (directory / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @property
    def codebook_ids(self) -> list[int]:
        return [self.tokenizer.convert_tokens_to_ids(token) for token in self.codebook_tokens]

    @property
    def text_ids(self) -> list[int]:
        """Ids of the prompt before the image."""
        return self._encode("", [])[0]

    def image_inputs(self, image: Image.Image) -> ImageInputs:
        """Prepare an image with the base's processor."""
        token = self.adapter.image_token(self.base)
        rendered, _ = self._rendered([], "", marked=False)
        # With the text before it: what the processor puts around an image may join with that to one token.
        before = "" if self._control.search(self.system) else rendered.partition(token)[0]
        special = bool(before) and self._adds_special(rendered)
        made = self.base(text=before + token, images=[image], add_special_tokens=special, return_tensors="pt")
        ids = made["input_ids"][0].tolist()
        pixels: Mapping[str, Any] = {name: made[name] for name in self.adapter.pixel_inputs if name in made}
        view = self.adapter.view(self.base, image, pixels)
        prefix = ids if before else [*self.text_ids, *ids]
        return ImageInputs(prefix, pixels, view, (image.height, image.width))

    def prompt_ids(self, question: str, history: Sequence[Answer] = ()) -> list[int]:
        """Ids of a question, from the end of the image up to where the answer begins.

        `history`: what was asked and answered before it. A codebook group stands where a target's phrase ends.
        """
        return self._encode(question, [(answer.question, _pieces(answer)) for answer in history])[1]

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of ids without codebook tokens; control tokens are dropped."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def answer_ids(self, answer: str) -> list[int]:
        """Ids of a training answer, in which every `{seg}` becomes a codebook group, with the id that ends it."""
        before, end = self._answer_frame
        pieces = _slots(answer)
        if any(map(self._control.search, pieces)):
            runs = [before + pieces[0], *pieces[1:]]
            ids = [i for run in runs for i in (*self.codebook_ids, *self._plain_ids(run))][len(self.codebook_ids) :]
        else:
            joined = before + "".join(self.codebook_tokens).join(pieces)
            ids = self.tokenizer(joined, add_special_tokens=False)["input_ids"]
        return [*ids, end]

    def __call__(self, samples: Sequence[Sample], max_length: int | None = None) -> BackboneBatch:
        """Samples with answers → a training batch; see `PixelLMProcessor.__call__`."""
        images = [self.image_inputs(sample.image) for sample in samples]
        rows = [
            training_row(
                image.prefix_ids, self._turns(sample.conversations), self.codebook_ids, max_length, sample.record_id
            )
            for image, sample in zip(images, samples, strict=True)
        ]
        return BackboneBatch(images, **batch_of_rows(rows))

    def _turns(self, conversations: Sequence[Conversation]) -> Iterator[Turn]:
        said: list[Said] = []
        for turn in conversations:
            said = said if turn.continues else []
            question = self._following_ids(turn.question, said) if said else self.prompt_ids(turn.question)
            yield turn, question, self.answer_ids(turn.answer)
            said = [*said, (turn.question, _slots(turn.answer))]

    def _following_ids(self, question: str, said: Sequence[Said]) -> list[int]:
        """Ids of a question after an answer and the id that ends it, up to where its own answer begins."""
        rendered, texts = self._rendered(said, question, marked=True)
        last = len(texts) - 2  # piece of the answers; the question follows
        ids = self._run_ids(rendered.partition(f"{_OPEN}{last}{_CLOSE}")[2], texts)
        return ids[ids[:1] == [self._answer_frame[1]] :]

    @cached_property
    def _answer_frame(self) -> tuple[str, int]:
        """Text that the template writes between its generation prompt and an answer, and the id that ends one."""
        prompt, _ = self._rendered([], "?", marked=False)
        whole, _ = self._rendered([("?", [_OPEN])], None, marked=False)
        before, _, after = whole.partition(_OPEN)
        ends = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        end = next((i for i in [*ends, self.tokenizer.eos_token_id] if i in self.eos_ids), self.eos_ids[0])
        return before.removeprefix(prompt) if before.startswith(prompt) else "", end

    def _encode(self, question: str, said: Sequence[Said]) -> tuple[list[int], list[int]]:
        """Ids of the prompt before and after the image."""
        wrote = [self.system, question, *(text for asked, pieces in said for text in (asked, *pieces))]
        marked = any(map(self._control.search, wrote))
        rendered, texts = self._rendered(said, question, marked)
        ids = self._marked_ids(rendered, texts) if marked else self._ids(rendered)
        image = self.adapter.image_token_id(self.base)
        if ids.count(image) != 1:
            raise ValueError(
                f"expected a chat template that writes one {self.adapter.image_token(self.base)} for an image, got "
                f"{ids.count(image)}. Save the base's processor with the template that it was trained with."
            )
        at = ids.index(image)
        return ids[:at], ids[at + 1 :]

    def _rendered(self, said: Sequence[Said], question: str | None, marked: bool) -> tuple[str, list[str]]:
        """Render turns and a question by the template, and return the texts in it in order; `marked`: as markers."""
        texts: list[str] = []

        def written(text: str) -> str:
            texts.append(text)
            return f"{_OPEN}{len(texts) - 1}{_CLOSE}" if marked else text

        def message(role: str, text: str, image: bool = False) -> dict[str, Any]:
            content = [{"type": "image"}] if image else []
            return {"role": role, "content": [*content, {"type": "text", "text": text}]}

        group = "".join(self.codebook_tokens)
        messages = [message("system", written(self.system))] if self.system else []
        for index, (asked, pieces) in enumerate(said):
            messages.append(message("user", written(asked), index == 0))
            messages.append(message("assistant", group.join(map(written, pieces))))
        if question is not None:
            messages.append(message("user", written(question), not said))
        prompts = question is not None
        return self.base.apply_chat_template(messages, add_generation_prompt=prompts, tokenize=False), texts

    def _ids(self, rendered: str) -> list[int]:
        """Tokenise a prompt as transformers' `apply_chat_template` does."""
        return self.tokenizer(rendered, add_special_tokens=self._adds_special(rendered))["input_ids"]

    def _adds_special(self, rendered: str) -> bool:
        """Return whether the tokenizer has to add what begins a text: the template has not."""
        bos = self.tokenizer.bos_token
        return not (bos is not None and rendered.startswith(bos))

    def _marked_ids(self, rendered: str, texts: Sequence[str]) -> list[int]:
        """Tokenise a prompt in which markers stand for `texts`: control tokens of the template alone are such."""
        begin = self._ids(rendered)[:1]  # what the tokenizer itself puts before a prompt, if anything
        control = self._control.match(rendered)
        return [
            *(begin if begin == [self.tokenizer.bos_token_id] and not control else []),
            *self._run_ids(rendered, texts),
        ]

    def _run_ids(self, rendered: str, texts: Sequence[str]) -> list[int]:
        """Tokenise runs of text between the control tokens of the template."""
        runs: list[str | int] = [""]
        for index, part in enumerate(_FIELD.split(rendered)):
            if index % 2:
                runs[-1] += texts[int(part)]
                continue
            position = 0
            for match in self._control.finditer(part):
                runs[-1] += part[position : match.start()]
                runs += [self.tokenizer.convert_tokens_to_ids(match.group()), ""]
                position = match.end()
            runs[-1] += part[position:]
        return [i for run in runs for i in ([run] if isinstance(run, int) else self._plain_ids(run))]

    def _plain_ids(self, text: str) -> list[int]:
        """Tokenise text with control tokens switched off."""
        return self._plain.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []


def _slots(answer: str) -> list[str]:
    """Cut a training answer at its mask slots, without the space before one."""
    *phrases, rest = answer.split(SEG_SLOT)
    return [*(phrase.rstrip() for phrase in phrases), rest]


def _pieces(answer: Answer) -> list[str]:
    """Cut an answer's text where its targets' phrases end."""
    cuts = [0, *sorted(target.span[1] for target in answer.targets), len(answer.text)]
    return [answer.text[start:end] for start, end in pairwise(cuts)]
