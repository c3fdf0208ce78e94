"""Requests and responses, as the OpenAPI description shows them.

Fields of OpenAI's API that this server does not support must have their neutral value.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pixellm.utils import limits

EXAMPLE_IMAGE = (  # 8×8 pixels, so that the examples of the description can be sent as they are
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGNgYGD4jwMPLQkAZ2o/wYN0HtUAAAAASUVORK5CYII="
)
EXAMPLE_CONTENT = [
    {"type": "text", "text": "Segment the cat."},
    {"type": "image_url", "image_url": {"url": EXAMPLE_IMAGE}},
]
EXAMPLE_TARGET = {
    **{"phrase": "the cat", "span": [0, 7], "score": 0.97, "area": 5, "box": [0, 0, 1, 5]},
    "segmentation": {"size": [8, 8], "counts": "05k1"},
}
EXAMPLE_MESSAGE = {"role": "assistant", "content": "the cat.", "targets": [EXAMPLE_TARGET]}
EXAMPLE_COMPLETION = {
    **{"id": "chatcmpl-0123456789abcdef", "object": "chat.completion", "created": 1760000000, "model": "pixellm-mini"},
    "choices": [{"index": 0, "message": EXAMPLE_MESSAGE, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 108, "completion_tokens": 10, "total_tokens": 118},
}
EXAMPLE_ERROR = {
    "message": "expected Authorization: Bearer KEY with an API key of this server.",
    **{"type": "invalid_request_error", "param": None, "code": "invalid_api_key"},
}


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class RequestModel(BaseModel):
    """Part of a request: types are not converted, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False)


class ImageUrl(RequestModel):
    url: str = Field(description="data:image/…;base64,…, or http(s)://… of a host that the server allows.")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Without effect.")


class TextPart(RequestModel):
    type: Literal["text"]
    text: str


class ImagePart(RequestModel):
    type: Literal["image_url"]
    image_url: ImageUrl


PARTS = Field(max_length=limits.MAX_PARTS)
MARKS = Field(max_length=limits.MAX_MARKS)
Texts = str | Annotated[list[TextPart], PARTS]


class PastTarget(RequestModel):
    """Target of an earlier answer; only its span is read."""

    span: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


class SystemMessage(RequestModel):
    role: Literal["system", "developer"]
    content: Texts


class UserMessage(RequestModel):
    role: Literal["user"]
    content: str | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], PARTS]


class AssistantMessage(RequestModel):
    role: Literal["assistant"]
    content: Texts
    targets: list[PastTarget] | None = Field(
        None,
        max_length=limits.MAX_PAST_TARGETS,
        description="The answer's own targets, so that the model knows where its masks were.",
    )


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(RequestModel):
    include_usage: bool = False


class TextFormat(RequestModel):
    type: Literal["text"]


class AnswerOptions(RequestModel):
    """Sampling and length of an answer, and which of its targets are given out."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="Sampling temperature; default: 0, greedy decoding."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        None, description="Sampling seed; default: random."
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Codebook tokens of masks included.")
    min_score: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Targets whose presence score (score where there is none) is lower are left out, also of a stream; "
        "the text stays. Default: the server's, 0 (off) if it has none.",
    )


class ChatRequest(AnswerOptions):
    model_config = _example({"model": "pixellm-mini", "messages": [{"role": "user", "content": EXAMPLE_CONTENT}]})

    model: str = Field(description="Name of the model, see `GET /v1/models`.")
    messages: list[ChatMessage] = Field(
        min_length=1,
        max_length=limits.MAX_MESSAGES,
        description="One image in one of the user's messages; the last message is the question.",
    )
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Alias of max_tokens.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    stop: None = None
    tools: None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None


class SegmentForm(AnswerOptions):
    """Form fields beside an uploaded image; numbers are text there."""

    model_config = ConfigDict(strict=False)

    question: str


class SegmentRequest(SegmentForm):
    model_config = ConfigDict(strict=True) | _example({"image": EXAMPLE_IMAGE, "question": "Segment the cat."})

    image: str = Field(description="data:image/…;base64,…, or http(s)://… of a host that the server allows.")


class RleRequest(RequestModel):
    """Mask as a compressed COCO RLE, as in the targets of an answer."""

    size: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)] = Field(
        description="Height and width in pixels."
    )
    counts: str


class MarkedTarget(PastTarget):
    """Target of an answer that is corrected; phrase, span and presence come back as they are."""

    span: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] = [0, 0]
    phrase: str = Field("", max_length=limits.MAX_ANSWER_CHARS)
    presence: Annotated[float, Field(ge=0, le=1)] | None = None
    segmentation: RleRequest


class StrokeModel(RequestModel):
    """Line on one side of the mask's edge."""

    points: Annotated[list[Annotated[list[float], Field(min_length=2, max_length=2)]], MARKS] = Field(
        description="(x, y) of each point, in pixels."
    )
    positive: bool = Field(True, description="False: the line does not lie on the object.")


class RefineForm(RequestModel):
    """Correction of one target, in the form field `request` beside an uploaded image."""

    target: MarkedTarget | None = Field(
        None, description="Target of an answer, with its mask before the correction; none: an empty mask."
    )
    points: Annotated[list[Annotated[list[float], Field(min_length=3, max_length=3)]], MARKS] = Field(
        [], description="(x, y, label) of each point, in pixels; label 1: of the object, 0: not."
    )
    box: Annotated[list[float], Field(min_length=4, max_length=4)] | None = Field(
        None, description="x, y, width, height in pixels, around the object."
    )
    strokes: Annotated[list[StrokeModel], MARKS] = []


class RefineRequest(RefineForm):
    """Correction of one target: all its points, boxes and strokes so far; nothing is remembered between requests."""

    model_config = _example({"image": EXAMPLE_IMAGE, "target": EXAMPLE_TARGET, "points": [[1, 6, 1], [7, 1, 0]]})

    image: str = Field(description="data:image/…;base64,…, or http(s)://… of a host that the server allows.")


NAME_CHARS = 200  # of a model, tool or user
ShortText = Annotated[str, Field(max_length=NAME_CHARS)]


class CorrectionForm(RequestModel):
    """Correction of an uploaded image."""

    phrase: str = Field(description="Words of the target.")
    segmentation: RleRequest = Field(
        description="The mask as it should be, at the image's size; without a pixel: the image does not show it."
    )
    before: RleRequest | None = Field(None, description="The mask that the model gave, if it gave one.")
    question: str | None = Field(
        None, description="The question, if it asks for this phrase alone. Default: `Segment the PHRASE.`"
    )
    answer: str | None = Field(None, description="Text of the answer that was corrected.")
    model: ShortText | None = Field(None, description="Name of the model that answered. Default: the served one.")
    tool: ShortText | None = Field(None, description="Program in which the mask was corrected.")
    user: ShortText | None = Field(None, description="Who corrected it.")


class CorrectionRequest(CorrectionForm):
    model_config = _example(
        {"image": EXAMPLE_IMAGE, "phrase": "the cat", "segmentation": {"size": [8, 8], "counts": "05k1"}}
    )

    image: str = Field(description="data:image/…;base64,…, or http(s)://… of a host that the server allows.")


class CorrectionResponse(BaseModel):
    """Place of a correction that was kept."""

    id: str = Field(description="The `id` of its line in corrections.jsonl.")
    image: str = Field(description="Path of the image, relative to that file.")
    replaced: bool = Field(description="It took the place of an earlier one of the same image, phrase and API key.")


class RleModel(BaseModel):
    """Mask as a compressed COCO RLE, readable by pycocotools."""

    size: list[int] = Field(description="Height and width of the image in pixels.")
    counts: str


class TargetModel(BaseModel):
    """Target of an answer: phrase and mask."""

    model_config = _example(EXAMPLE_TARGET)

    phrase: str
    span: list[int] = Field(description="Start and end of the phrase in the answer's text, in characters.")
    score: float = Field(description="Mean probability of the mask's pixels, 0 to 1.")
    presence: float | None = Field(
        None, description="Probability that the target is in the image, 0 to 1; missing where the model gives none."
    )
    area: int = Field(description="Number of mask pixels.")
    box: list[int] | None = Field(description="x, y, width, height in pixels; null for an empty mask.")
    segmentation: RleModel


class MessageModel(BaseModel):
    role: Literal["assistant"]
    content: str
    targets: list[TargetModel] = Field(description="pixellm's extension: the masks, in the order of the text.")


class Choice(BaseModel):
    index: Literal[0]
    message: MessageModel
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    model_config = _example(EXAMPLE_COMPLETION)

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class SegmentResponse(BaseModel):
    """Answer in the format of `pixellm ask --json`."""

    model_config = _example(
        {"question": "Segment the cat.", "text": "the cat.", "height": 8, "width": 8, "targets": [EXAMPLE_TARGET]}
    )

    question: str
    text: str
    height: int
    width: int
    targets: list[TargetModel]


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "pixellm"
    takes_prompts: bool | None = Field(
        None, description="pixellm's extension: `/v1/refine` works; null until the model is loaded."
    )


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    model_config = _example({"error": EXAMPLE_ERROR})

    error: ErrorBody


class ServerStatus(BaseModel):
    status: Literal["ok", "loading"]
