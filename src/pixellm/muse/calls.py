"""Requests to a model that are paid once: what was answered is kept before anything is made of it."""

import asyncio
from typing import Any, Protocol

from pixellm.muse.journal import Call, Journal


class Client(Protocol):
    """A model behind a server."""

    model: str

    async def ask(self, key: str, messages: list[dict[str, Any]], schema: dict[str, Any]) -> Call:
        """The reply to chat messages, as JSON of a schema, and what it cost; `key` becomes the call's."""
        ...


class Calls(Protocol):
    """Where replies are kept."""

    async def call(self, key: str) -> Call | None:
        """The reply to a request that was answered before."""
        ...

    async def save_call(self, call: Call) -> None:
        """Keep a reply; it is on disk when this returns."""
        ...


class JournalCalls:
    """`Calls` of a journal that is open in this process."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def call(self, key: str) -> Call | None:
        return self._journal.call(key)

    async def save_call(self, call: Call) -> None:
        await asyncio.to_thread(self._journal.save_call, call)  # the disk takes its time


async def answered(
    client: Client, calls: Calls, key: str, messages: list[dict[str, Any]], schema: dict[str, Any]
) -> str:
    """The reply to a request, from what is kept or from the client, and then it is kept."""
    call = await calls.call(key)
    if call is None:
        call = await client.ask(key, messages, schema)
        await calls.save_call(call)
    return call.reply
