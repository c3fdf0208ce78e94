"""Requests and responses, as OpenAPI describes them.

What OpenAI's API has and we have not must be left at its neutral value.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE_IMAGE = (  # 8×8 pixels, so that the examples of the description can be sent as they are
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGNgYGD4jwMPLQkAZ2o/wYN0HtUAAAAASUVORK5CYII="
)
EXAMPLE_RLE = {"size": [8, 8], "counts": "o05K0"}
EXAMPLE_TARGET = {
    "phrase": "the cat",
    "span": [0, 7],
    "score": 0.97,
    "area": 5,
    "box": [0, 0, 1, 5],
    "segmentation": EXAMPLE_RLE,
}


class Received(BaseModel):
    """What clients send: types are taken as they are written, unknown fields are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False)


class ImageUrl(Received):
    url: str = Field(description="data:image/…;base64,…, or http(s)://… of a host that the server allows.")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Without effect.")


class TextPart(Received):
    type: Literal["text"]
    text: str


class ImagePart(Received):
    type: Literal["image_url"]
    image_url: ImageUrl


class SaidTarget(Received):
    """Of an earlier answer; whatever else the answer said of its target may stay there and is not read."""

    span: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


class SystemMessage(Received):
    role: Literal["system", "developer"]
    content: str | list[TextPart]


class UserMessage(Received):
    role: Literal["user"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class AssistantMessage(Received):
    role: Literal["assistant"]
    content: str | list[TextPart]
    targets: list[SaidTarget] | None = Field(
        None, max_length=256, description="As they came with the answer, so that the model knows where its masks were."
    )


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Received):
    include_usage: bool = False


class PlainText(Received):
    type: Literal["text"]


class Choosing(Received):
    """How an answer is written."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="0, the default: the likeliest words."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        None, description="Of the draw; random if missing."
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Codebook tokens of masks included.")


class ChatRequest(Choosing):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "pixellm-mini",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "text", "text": "Segment the cat."},
                                {"type": "image_url", "image_url": {"url": EXAMPLE_IMAGE}},
                            ],
                        }
                    ],
                }
            ]
        }
    )

    model: str = Field(description="As `GET /v1/models` names it.")
    messages: list[ChatMessage] = Field(
        min_length=1,
        max_length=128,
        description="One image in one of the user's messages; the last one is the question.",
    )
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="The same as max_tokens.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    stop: None = None
    tools: None = None
    logprobs: Literal[False] | None = None
    response_format: PlainText | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None


class SegmentForm(Choosing):
    """Beside an image that was uploaded."""

    question: str


class SegmentRequest(SegmentForm):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": EXAMPLE_IMAGE, "question": "Segment the cat."}]}
    )

    image: str = Field(description="data:image/…;base64,…, or http(s)://… of a host that the server allows.")


class Rle(BaseModel):
    """Compressed COCO run lengths, as pycocotools reads them."""

    size: list[int] = Field(description="Height and width of the image in pixels.")
    counts: str


class TargetOut(BaseModel):
    """One thing that an answer names, with its mask."""

    phrase: str
    span: list[int] = Field(description="Start and end of the phrase in the answer's text, in characters.")
    score: float = Field(description="Mean probability of the mask's pixels, 0 to 1.")
    area: int = Field(description="Pixels of the mask.")
    box: list[int] | None = Field(description="x, y, width, height in pixels; null where the mask is empty.")
    segmentation: Rle

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_TARGET]})


class MessageOut(BaseModel):
    role: Literal["assistant"]
    content: str
    targets: list[TargetOut] = Field(description="pixellm's own: the masks, in the order of the text.")


class Choice(BaseModel):
    index: Literal[0]
    message: MessageOut
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "chatcmpl-0123456789abcdef",
                    "object": "chat.completion",
                    "created": 1760000000,
                    "model": "pixellm-mini",
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": "the cat.", "targets": [EXAMPLE_TARGET]},
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": {"prompt_tokens": 108, "completion_tokens": 10, "total_tokens": 118},
                }
            ]
        }
    )


class Segmented(BaseModel):
    """As `pixellm ask --json` writes it."""

    question: str
    text: str
    height: int
    width: int
    targets: list[TargetOut]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "question": "Segment the cat.",
                    "text": "the cat.",
                    "height": 8,
                    "width": 8,
                    "targets": [EXAMPLE_TARGET],
                }
            ]
        }
    )


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "pixellm"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorOut(BaseModel):
    error: ErrorBody

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "expected Authorization: Bearer KEY with a key of this server.",
                        "type": "invalid_request_error",
                        "param": None,
                        "code": "invalid_api_key",
                    }
                }
            ]
        }
    )


class State(BaseModel):
    status: Literal["ok", "loading"]
