"""Engine that asks a vision-language model; a reply that can't be used is asked for once more.

ImageAnnotations → prompt → reply (in the journal, paid once) → records
"""

import hashlib
import json
from pathlib import Path

from pixellm.muse.generation import GenerationResult
from pixellm.muse.prompts import Prompt
from pixellm.muse.records import ImageAnnotations, Provenance
from pixellm.muse.vlm.reply import parse_reply
from pixellm.muse.vlm.reply_cache import ChatModel, ReplyCache, cached_reply
from pixellm.utils.chat_protocol import Messages

MEND = "That can't be used: {complaint} Reply again, with the whole JSON and nothing else."


class VlmEngine:
    """`MuseEngine` that asks a model.

    Args:
        client: client of the model's server.
        cache: replies so far, which are not asked for again.
        prompt: prompt variant.
        images: folder of the images.
        questions: pairs to ask for about an image.
    """

    def __init__(self, client: ChatModel, cache: ReplyCache, prompt: Prompt, images: Path, questions: int) -> None:
        self._client, self._cache, self._prompt = client, cache, prompt
        self._images, self._questions = images, questions
        self._provenance = Provenance("server", client.model, prompt.name, synthetic=False)

    async def ask(self, image: ImageAnnotations) -> GenerationResult:
        """Send one request, and another one where nothing of the reply could be used."""
        messages = self._prompt.messages(image, self._images, self._questions)
        reply = await self._reply(reply_key(self._prompt, image, messages, 1), messages)
        parsed = parse_reply(reply, image, self._provenance)
        if not parsed.complaint:
            return GenerationResult(parsed.records, parsed.rejects)
        key = reply_key(self._prompt, image, messages, 2)
        complaint = {"role": "user", "content": MEND.format(complaint=parsed.complaint)}
        reply = await self._reply(key, [*messages, {"role": "assistant", "content": reply}, complaint])
        again = parse_reply(reply, image, self._provenance)
        return GenerationResult(again.records, (*parsed.rejects, *again.rejects))

    async def _reply(self, key: str, messages: Messages) -> str:
        return await cached_reply(self._client, self._cache, key, messages, self._prompt.schema)


def reply_key(prompt: Prompt, image: ImageAnnotations, messages: Messages, number: int) -> str:
    """Return the cache key of the `number`th request about an image: the same text has the same key."""
    # The image's bytes would take longer to hash than to send.
    content = (messages[0]["content"], *messages[1]["content"])
    texts = [item for item in content if "image_url" not in item]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    return f"{prompt.name}/{image.image.image_id}/{digest}/{number}"
