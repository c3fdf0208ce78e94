"""The engine that asks a vision-language model.

Scene → prompt → Call (in the journal, paid once) → records; a reply that can't be used is asked for once more
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pixellm.muse.calls import Calls, Client, answered
from pixellm.muse.prompts import Prompt
from pixellm.muse.records import Provenance
from pixellm.muse.scene import Made, Scene
from pixellm.muse.server.reply import Read, read_reply

MEND = "That can't be used: {complaint} Reply again, with the whole JSON and nothing else."


class ServerEngine:
    """Asks `client`.

    Args:
        client: of the server.
        calls: where replies are kept; what is there is not asked again.
        prompt: which of the variants.
        images: folder of the photographs.
        questions: pairs to ask for of a photograph.
    """

    def __init__(self, client: Client, calls: Calls, prompt: Prompt, images: Path, questions: int) -> None:
        self._client, self._calls, self._prompt = client, calls, prompt
        self._images, self._questions = images, questions
        self._made = Provenance("server", client.model, prompt.name, synthetic=False)

    async def ask(self, scene: Scene) -> Made:
        """One request, and another one where nothing of the reply could be used."""
        messages = self._prompt.messages(scene, self._images, self._questions)
        reply = await self._answer(call_key(self._prompt, scene, messages, 1), messages)
        found = read_reply(reply, scene, self._made)
        if found.complaint:
            key = call_key(self._prompt, scene, messages, 2)
            messages += [
                {"role": "assistant", "content": reply},
                {"role": "user", "content": MEND.format(complaint=found.complaint)},
            ]
            again = read_reply(await self._answer(key, messages), scene, self._made)
            found = Read(again.records, (*found.rejects, *again.rejects))
        return Made(found.records, found.rejects)

    async def _answer(self, key: str, messages: list[dict[str, Any]]) -> str:
        return await answered(self._client, self._calls, key, messages, self._prompt.schema)


def call_key(prompt: Prompt, scene: Scene, messages: list[dict[str, Any]], number: int) -> str:
    """Of the request with that number about a scene: the same words have the same key."""
    # The photograph's bytes would take longer to hash than to send.
    words = [part for part in (messages[0]["content"], *messages[1]["content"]) if "image_url" not in part]
    digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
    return f"{prompt.name}/{scene.image.image_id}/{digest}/{number}"
