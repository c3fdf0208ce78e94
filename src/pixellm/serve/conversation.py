"""The messages of a chat → one question on one image, with the turns before it."""

from collections.abc import Sequence
from dataclasses import dataclass

from pixellm.serve.errors import ApiError
from pixellm.serve.messages import Turn
from pixellm.serve.schema import AssistantMessage, ChatMessage, ImagePart, SystemMessage, TextPart, UserMessage
from pixellm.serve.settings import ServeSettings


@dataclass(frozen=True)
class Conversation:
    """What is asked; `image` is a URL, None where the image came in another way."""

    question: str
    image: str | None
    system: str | None
    history: tuple[Turn, ...]


def read(messages: Sequence[ChatMessage], settings: ServeSettings) -> Conversation:
    """Take a chat apart.

    Raises:
        ApiError: 400, it has not one question at its end, more than one image, or is too long.
    """
    system = [_text(message.content) for message in messages if isinstance(message, SystemMessage)]
    spoken = [message for message in messages if not isinstance(message, SystemMessage)]
    turns: list[tuple[str, AssistantMessage | None]] = []
    for message in spoken:
        if isinstance(message, UserMessage) and (not turns or turns[-1][1] is not None):
            turns.append((_text(message.content), None))
        elif isinstance(message, AssistantMessage) and turns and turns[-1][1] is None:
            turns[-1] = (turns[-1][0], message)
        else:
            raise _wrong("expected messages of user and assistant in turns, the user's first.")
    if not turns or turns[-1][1] is not None:
        raise _wrong("expected a message of the user at the end.")
    if len(turns) > settings.max_turns:
        raise _wrong(f"expected at most {settings.max_turns} messages of the user, got {len(turns)}.")
    for text in (*system, *(question for question, _ in turns)):
        check_text(text, settings)
    history = tuple(_turn(question, answer) for question, answer in turns[:-1] if answer is not None)
    return Conversation(turns[-1][0], _image(spoken), "\n".join(system) if system else None, history)


def check_text(text: str, settings: ServeSettings) -> None:
    """ApiError 400 for a question without a word, or with too many."""
    if not text.strip():
        raise _wrong("expected a question, got an empty text.")
    if len(text) > settings.max_question_chars:
        raise _wrong(f"expected a text of at most {settings.max_question_chars} characters, got {len(text)}.")


def _turn(question: str, answer: AssistantMessage) -> Turn:
    text = _text(answer.content)
    spans = [(target.span[0], target.span[1]) for target in answer.targets or []]
    if any(not start <= end <= len(text) for start, end in spans):
        raise _wrong("expected targets whose spans lie in their message's text.")
    return Turn(question, text, tuple(spans))


def _image(messages: Sequence[UserMessage | AssistantMessage]) -> str | None:
    parts = [
        part for m in messages if isinstance(m, UserMessage) and not isinstance(m.content, str) for part in m.content
    ]
    urls = {part.image_url.url for part in parts if isinstance(part, ImagePart)}
    if len(urls) > 1:
        raise _wrong(f"expected one image in a conversation, got {len(urls)}. Begin another for the other image.")
    return urls.pop() if urls else None


def _text(content: str | Sequence[TextPart | ImagePart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


def _wrong(message: str) -> ApiError:
    return ApiError(400, message, param="messages")
