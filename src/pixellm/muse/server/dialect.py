"""What a server understands of the OpenAI protocol: asked for in the newest way first, then without what it rejects."""

import json
from dataclasses import dataclass, replace
from typing import Any, Self

from pixellm.muse.server.settings import Settings

IN_WORDS = "Reply with nothing but JSON that follows this schema: {schema}"


@dataclass(frozen=True)
class Dialect:
    """A way to ask.

    Args:
        stream: the reply in pieces.
        usage: tokens are counted at the end of a stream.
        structured: the reply's schema is enforced; otherwise it is told in words.
        new_limit: the limit is called max_completion_tokens; before, it was max_tokens.
    """

    stream: bool
    usage: bool = True
    structured: bool = True
    new_limit: bool = True

    def options(self, messages: list[dict[str, Any]], schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
        """Of `chat.completions.create`."""
        body: dict[str, Any] = {"messages": messages}
        body["max_completion_tokens" if self.new_limit else "max_tokens"] = settings.max_output
        if self.stream and self.usage:
            body["stream_options"] = {"include_usage": True}
        if self.structured:
            shape = {"name": "reply", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        else:
            first, *others = messages
            words = f"{first['content']}\n\n{IN_WORDS.format(schema=json.dumps(schema))}"
            body["messages"] = [first | {"content": words}, *others]
        # As extra_body: the client walks through all else for its types, which takes longer than to send it.
        common = {"model": settings.model, "temperature": settings.temperature, "stream": self.stream}
        return common | {"messages": [], "extra_body": body}

    def simpler(self, complaint: str) -> Self | None:
        """Without what a server complains about; None: that can't be left away."""
        if self.new_limit and "max_completion_tokens" in complaint:
            return replace(self, new_limit=False)
        if self.stream and self.usage and "stream_options" in complaint:
            return replace(self, usage=False)
        if self.structured and any(word in complaint for word in ("response_format", "json_schema", "schema")):
            return replace(self, structured=False)
        return None
