"""Parse the messages of a chat into one question about one image, with the turns before it."""

from collections.abc import Sequence
from dataclasses import dataclass

from pixellm.serve.errors import ApiError
from pixellm.serve.messages import PastTurn
from pixellm.serve.schema import AssistantMessage, ChatMessage, ImagePart, SystemMessage, TextPart, UserMessage
from pixellm.serve.settings import ServeSettings
from pixellm.utils import checks


@dataclass(frozen=True)
class ChatQuestion:
    """Question at the end of a chat; `image_url` is None if the image was uploaded."""

    question: str
    image_url: str | None
    system: str | None
    history: tuple[PastTurn, ...]


def parse_chat(messages: Sequence[ChatMessage], settings: ServeSettings) -> ChatQuestion:
    """Return the question of a chat.

    Raises:
        ApiError: 400, no question at the end, several images, or a text or chat that is too long.
    """
    system = [_text(message.content) for message in messages if isinstance(message, SystemMessage)]
    dialogue = [message for message in messages if not isinstance(message, SystemMessage)]
    turns: list[tuple[str, AssistantMessage | None]] = []
    for message in dialogue:
        if isinstance(message, UserMessage) and (not turns or turns[-1][1] is not None):
            turns.append((_text(message.content), None))
        elif isinstance(message, AssistantMessage) and turns and turns[-1][1] is None:
            turns[-1] = (turns[-1][0], message)
        else:
            raise _invalid("expected messages of user and assistant in turns, starting with the user.")
    if not turns or turns[-1][1] is not None:
        raise _invalid("expected a user message at the end.")
    if len(turns) > settings.max_turns:
        raise _invalid(f"expected at most {settings.max_turns} user messages, got {len(turns)}.")
    history = tuple(_past_turn(question, answer) for question, answer in turns[:-1] if answer is not None)
    _check_texts([*system, *(question for question, _ in turns)], [turn.text for turn in history], settings)
    return ChatQuestion(turns[-1][0], _image_url(dialogue), "\n".join(system) if system else None, history)


def check_text(text: str, settings: ServeSettings) -> None:
    """Raise ApiError 400 for an empty text, or one that is too long."""
    try:
        checks.check_text(text, settings.max_question_chars)
    except ValueError as error:
        raise _invalid(f"{error}.") from None


def _check_texts(questions: Sequence[str], answers: Sequence[str], settings: ServeSettings) -> None:
    for text in questions:
        check_text(text, settings)
    for text in answers:
        _check_length(len(text), settings.max_answer_chars, "earlier answers")
    total = sum(map(len, [*questions, *answers]))
    _check_length(total, settings.max_chat_chars, "a conversation")


def _check_length(chars: int, limit: int, name: str) -> None:
    if chars > limit:
        raise _invalid(f"expected {name} of at most {limit} characters, got {chars}. Leave out earlier turns.")


def _past_turn(question: str, answer: AssistantMessage) -> PastTurn:
    text = _text(answer.content)
    spans = [(target.span[0], target.span[1]) for target in answer.targets or []]
    if any(not start <= end <= len(text) for start, end in spans):
        raise _invalid("expected target spans within their message's text.")
    return PastTurn(question, text, tuple(spans))


def _image_url(messages: Sequence[UserMessage | AssistantMessage]) -> str | None:
    contents = [message.content for message in messages if isinstance(message, UserMessage)]
    urls = {
        item.image_url.url
        for content in contents
        if not isinstance(content, str)
        for item in content
        if isinstance(item, ImagePart)
    }
    if len(urls) > 1:
        raise _invalid(f"expected one image in a conversation, got {len(urls)}. Start a new one for another image.")
    return urls.pop() if urls else None


def _text(content: str | Sequence[TextPart | ImagePart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(item.text for item in content if isinstance(item, TextPart))


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, param="messages")
