"""Replies that are paid once: each is in the journal before anything is made of it, and counts against the caps."""

import asyncio
from typing import Protocol

from pixellm.muse.journal import Journal
from pixellm.utils.budget import Budget
from pixellm.utils.chat_protocol import Messages, Schema
from pixellm.utils.openai_client import Completion
from pixellm.utils.server_settings import ServerSettings


class ChatModel(Protocol):
    """Interface of `ChatClient`."""

    model: str

    async def ask(self, messages: Messages, schema: Schema) -> Completion: ...


class ReplyCache(Protocol):
    """Store of replies by the key of their request; a reply is on disk when `put` returns."""

    async def get(self, key: str) -> Completion | None: ...

    async def put(self, key: str, reply: Completion) -> None: ...


class JournalReplyCache:
    """`ReplyCache` in a journal that is open in this process."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def get(self, key: str) -> Completion | None:
        return self._journal.reply(key)

    async def put(self, key: str, reply: Completion) -> None:
        await asyncio.to_thread(self._journal.save_reply, key, reply)  # the disk takes its time


async def cached_reply(client: ChatModel, cache: ReplyCache, key: str, messages: Messages, schema: Schema) -> str:
    """Return the reply to a request from the cache, or from the client, and then cache it."""
    reply = await cache.get(key)
    if reply is None:
        reply = await client.ask(messages, schema)
        await cache.put(key, reply)
    return reply.text


def journal_budget(settings: ServerSettings, journal: Journal) -> Budget:
    """Return a budget that counts earlier runs of a journal, and keeps its requests there while they are in flight."""
    journal.add_currency(settings.currency)
    calls, tokens_in, tokens_out, cost = journal.spent()
    lost = [sum(amounts) for amounts in zip(journal.lost(), journal.killed(), strict=True)]
    return settings.budget(
        **{"calls": calls, "tokens": tokens_in + tokens_out, "cost": cost},
        **{"lost_calls": lost[0], "lost_tokens": int(lost[1] + lost[2]), "lost_cost": lost[3]},
        ledger=journal,
    )
