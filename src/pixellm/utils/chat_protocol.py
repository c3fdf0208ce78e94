"""OpenAI's chat protocol as servers really speak it: requests in the form that a server understands, replies checked.

Servers, and proxies before them, send what no protocol knows: whatever isn't a whole reply is a broken one.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Self

from pixellm.utils.server_settings import ServerSettings

Messages = list[dict[str, Any]]
Schema = dict[str, Any]
SCHEMA_IN_WORDS = "Reply with nothing but JSON that follows this schema: {schema}"
# Raised by JSON that is none, or isn't of the protocol.
MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


class BrokenReplyError(Exception):
    """Reply that did not come, or not whole.

    Args:
        reason: what happened.
        after: seconds that the server asks to wait.
        sent: whether a server can have got the request.
    """

    def __init__(self, reason: str, after: float | None = None, sent: bool = True) -> None:
        super().__init__(reason)
        self.after, self.sent = after, sent


@dataclass(frozen=True)
class RequestFormat:
    """Form of a request: the newest one first, then without what the server rejects.

    Args:
        stream: receive the reply in pieces.
        usage: have tokens counted at the end of a stream.
        structured: have the reply's schema enforced; otherwise it is a part of the prompt.
        new_limit: name the limit max_completion_tokens; before, it was max_tokens.
    """

    stream: bool
    usage: bool = True
    structured: bool = True
    new_limit: bool = True

    def options(self, messages: Messages, schema: Schema | None, settings: ServerSettings) -> dict[str, Any]:
        """Return the arguments of `chat.completions.create`."""
        body: dict[str, Any] = {"messages": messages}
        if settings.max_output is not None:
            body["max_completion_tokens" if self.new_limit else "max_tokens"] = settings.max_output
        if self.stream and self.usage:
            body["stream_options"] = {"include_usage": True}
        if schema is not None and self.structured:
            shape = {"name": "reply", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        elif schema is not None:
            first, *others = messages
            text = f"{first['content']}\n\n{SCHEMA_IN_WORDS.format(schema=json.dumps(schema))}"
            body["messages"] = [first | {"content": text}, *others]
        # As extra_body: the library walks through all else for its types, which takes longer than to send it.
        common = {"model": settings.model, "temperature": settings.temperature, "stream": self.stream}
        return common | {"messages": [], "extra_body": body}

    def simpler(self, complaint: str) -> Self | None:
        """Return the format without what a server complains about; None: that can't be left out."""
        if self.new_limit and "max_completion_tokens" in complaint:
            return replace(self, new_limit=False)
        if self.stream and self.usage and "stream_options" in complaint:
            return replace(self, usage=False)
        if self.structured and any(word in complaint for word in ("response_format", "json_schema", "schema")):
            return replace(self, structured=False)
        return None


@dataclass(frozen=True)
class RawReply:
    """Reply as it came; `usage`: tokens in and out as the server counts them, if it does."""

    text: str
    usage: tuple[int, int] | None
    truncated: bool


async def request(client: Any, options: dict[str, Any]) -> RawReply:
    """Send a request with the `openai` library, and receive its reply; a refusal is the text {"refusal": REASON}.

    Raises:
        BrokenReplyError: what came is no whole reply.
        openai.OpenAIError: see the library.
    """
    try:
        reply = await client.chat.completions.create(**options)
        if options.get("stream"):
            return await _streamed(reply)
        choice = reply.choices[0]
        text, refusal = choice.message.content or "", choice.message.refusal or ""
        return _checked(text, refusal, choice.finish_reason, reply.usage)
    except MALFORMED as error:
        raise BrokenReplyError(f"no reply of the OpenAI protocol ({type(error).__name__})") from None


async def _streamed(chunks: Any) -> RawReply:
    text, refusal, reason, usage = "", "", None, None
    async for chunk in chunks:
        usage = chunk.usage or usage
        for choice in (chunk.choices or ())[:1]:
            text += choice.delta.content or ""
            refusal += choice.delta.refusal or ""
            reason = choice.finish_reason or reason
    if reason is None:
        raise BrokenReplyError("the reply broke off")
    return _checked(text, refusal, reason, usage)


def _checked(text: str, refusal: str, reason: str | None, usage: Any) -> RawReply:
    if refusal or reason == "content_filter":
        text = json.dumps({"refusal": refusal or "content filter"})
    counts = (usage.prompt_tokens, usage.completion_tokens) if usage else None
    if not isinstance(text, str) or not all(type(count) is int and count >= 0 for count in counts or ()):
        raise TypeError("expected a text and counts")
    return RawReply(text, counts, reason == "length")


def without_thoughts(reply: str) -> str:
    """Remove the thoughts of a reasoning model from its reply."""
    return re.sub(r"<think>.*?</think>", "", reply, flags=re.DOTALL)


def json_object(reply: str) -> dict[str, Any]:
    """Return the JSON object in a reply, which may stand in words or a code fence; empty if there is none."""
    match = re.search(r"\{.*\}", without_thoughts(reply), re.DOTALL)
    try:
        row = json.loads(match[0]) if match else None
    except (json.JSONDecodeError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {}
