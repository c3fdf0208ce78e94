"""What the `openai` library gives for a request → the reply's text and tokens, or that it is none.

Servers, and what stands before them, send what no protocol knows: whatever isn't a whole reply is a broken one.
"""

import json
from dataclasses import dataclass
from typing import Any

ODD = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # of JSON that isn't, or isn't of the protocol


class BrokenReplyError(Exception):
    """A reply that did not come, or not whole; `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class Answer:
    """A reply as it came: tokens as the server counts them, if it does; `cut` at the limit."""

    text: str
    tokens_in: int | None
    tokens_out: int | None
    cut: bool


async def received(client: Any, options: dict[str, Any]) -> Answer:
    """Send a request, and take its reply, in pieces or at once. A refusal is the text {"refusal": REASON}.

    Args:
        client: of `openai`.
        options: of `chat.completions.create`.

    Raises:
        BrokenReplyError: what came is no whole reply.
        openai.OpenAIError: of the library.
    """
    try:
        answer = await client.chat.completions.create(**options)
        return await _streamed(answer) if options.get("stream") else _whole(answer)
    except ODD as error:
        raise BrokenReplyError(f"no reply of the OpenAI protocol ({type(error).__name__})") from None


async def _streamed(chunks: Any) -> Answer:
    text, refusal, reason, usage = "", "", None, None
    async for chunk in chunks:
        usage = chunk.usage or usage
        for choice in (chunk.choices or ())[:1]:
            text += choice.delta.content or ""
            refusal += choice.delta.refusal or ""
            reason = choice.finish_reason or reason
    if reason is None:
        raise BrokenReplyError("the reply broke off")
    return _answer(text, refusal, reason, usage)


def _whole(answer: Any) -> Answer:
    choice = answer.choices[0]
    return _answer(choice.message.content or "", choice.message.refusal or "", choice.finish_reason, answer.usage)


def _answer(text: str, refusal: str, reason: str | None, usage: Any) -> Answer:
    if refusal or reason == "content_filter":
        text = json.dumps({"refusal": refusal or "content filter"})
    counted = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
    if not isinstance(text, str) or not all(one is None or (type(one) is int and one >= 0) for one in counted):
        raise TypeError("a text or a count that is none")
    return Answer(text, *counted, cut=reason == "length")
