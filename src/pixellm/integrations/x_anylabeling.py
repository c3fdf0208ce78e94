"""Routes for X-AnyLabeling's remote server (`pixellm serve --x-anylabeling`): text prompt → polygons.

GET /x-anylabeling/v1/models · POST /x-anylabeling/v1/predict, behind the same checks and limits as the rest of the API

Under a prefix, because its `/v1/models` is not OpenAI's.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from pixellm.export.outlines import polygons
from pixellm.integrations.remote import PromptQuestion, read_prompt
from pixellm.serve.chat import check_text
from pixellm.serve.errors import ApiError
from pixellm.serve.request_handler import RequestHandler, parse, until_disconnect
from pixellm.serve.responses import JSON, HoldingResponse
from pixellm.serve.schema import AnswerOptions, RequestModel
from pixellm.types import Answer, Target

PREFIX = "/x-anylabeling"
MAX_PHRASES = 16  # questions of one prompt
PLACEHOLDER = "cat, red cup … or a question"
WIDGETS = ("edit_text", "button_send", "input_conf", "edit_conf", "mask_fineness_slider", "mask_fineness_value_label")
PRESERVE = "toggle_preserve_existing_annotations"


class PredictParams(RequestModel):
    """Parameters of a prediction; X-AnyLabeling sends more, which mean nothing here."""

    text_prompt: str = ""
    conf_threshold: float | None = Field(None, ge=0, le=1, description="Least presence score of a shape.")
    epsilon_factor: float = Field(
        0.001, ge=0, le=1, description="Pixels that polygons may be off / outline of the box."
    )
    marks: list[dict[str, Any]] = Field([], description="Clicks and boxes: not supported, an error.")


class ShapesRequest(RequestModel):
    """Body of X-AnyLabeling's POST /v1/predict."""

    model: str
    image: str = Field(description="data:image/…;base64,…")
    params: PredictParams = PredictParams()


class LabelmeShape(BaseModel):
    """Polygon of a target, or of one part of it."""

    label: str
    shape_type: Literal["polygon"] = "polygon"
    points: list[list[float]]
    score: float | None
    group_id: int | None
    description: str


class LabelmeShapes(BaseModel):
    """Shapes of an image; `description` is the answer to a question in words, "" for phrases."""

    shapes: list[LabelmeShape]
    description: str
    replace: bool | None = None


class ShapesResponse(BaseModel):
    """X-AnyLabeling's envelope."""

    success: Literal[True] = True
    data: LabelmeShapes


def x_anylabeling_routes(handler: RequestHandler) -> APIRouter:
    """Build the routes that X-AnyLabeling asks."""
    router = APIRouter(prefix=f"{PREFIX}/v1", tags=["X-AnyLabeling"])
    name = handler.settings.model_name

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """List the served model with the widgets that X-AnyLabeling shows for it."""
        values = {"edit_conf": handler.settings.min_score, "edit_text": None}
        widgets = [{"name": widget, "value": values.get(widget)} for widget in (*WIDGETS, PRESERVE)]
        widgets[0]["placeholder"] = PLACEHOLDER
        card = {"display_name": f"PixelLM · {name}", "widgets": widgets, "batch_processing_mode": "text_prompt"}
        return {"success": True, "data": {name: card}}

    @router.post("/predict", response_model=ShapesResponse)
    async def predict(request: Request) -> Response:
        """Answer a text prompt about an image with polygons."""
        body, _ = await handler.read_body(request)
        asked = parse(ShapesRequest, body)
        questions = _questions(asked, name)
        for row in questions:
            check_text(row.question, handler.settings)
        sampling, least = handler.sampling(AnswerOptions()), asked.params.conf_threshold or None
        async with AsyncExitStack() as resources:
            image = await resources.enter_async_context(handler.image(request, None, asked.image))
            answers = []
            for row in questions:
                pending = handler.submit(request, image, row.question, sampling, least)
                answer, _ = await until_disconnect(request.receive, handler.complete(pending))
                answers.append(answer)
            outlined = asyncio.to_thread(_shapes, questions, answers, asked.params.epsilon_factor)
            shapes = await until_disconnect(request.receive, outlined)
            return HoldingResponse(ShapesResponse(data=shapes).model_dump_json().encode(), JSON, resources.pop_all())

    return router


def _questions(asked: ShapesRequest, name: str) -> list[PromptQuestion]:
    """Return the questions of a request; an ApiError for another model, for clicks, and for none or too many."""
    if asked.model != name:
        raise ApiError(404, f"expected the model {name}, got {asked.model[:80]!r}.", "model_not_found", "model")
    if asked.params.marks:
        raise ApiError(
            400, "expected a text prompt, got clicks or boxes, which this model does not read.", param="marks"
        )
    questions = read_prompt(asked.params.text_prompt)
    if not 0 < len(questions) <= MAX_PHRASES:
        raise ApiError(
            400, f"expected a text prompt of 1 to {MAX_PHRASES} phrases, got {len(questions)}.", param="text_prompt"
        )
    return questions


def _shapes(questions: list[PromptQuestion], answers: list[Answer], epsilon_factor: float) -> LabelmeShapes:
    shapes: list[LabelmeShape] = []
    number = 0
    for row, answer in zip(questions, answers, strict=True):
        for target in (target for target in answer.targets if target.area):
            number += 1
            shapes += _outline(target, row.phrase or target.category, number, epsilon_factor)
    sentences = [answer.text for row, answer in zip(questions, answers, strict=True) if not row.phrase]
    return LabelmeShapes(shapes=shapes, description=" ".join(sentences))


def _outline(target: Target, label: str, group: int, epsilon_factor: float) -> list[LabelmeShape]:
    """Return a polygon for each part of a mask that has a pixel; parts of one target have one group."""
    assert target.box is not None
    rings = polygons(target.mask, centres=True, tolerance=epsilon_factor * 2 * sum(target.box[2:]))
    score = None if target.confidence is None else round(target.confidence, 4)
    return [
        LabelmeShape(
            label=label,
            points=ring.astype(float).tolist(),
            score=score,
            group_id=group if len(rings) > 1 else None,
            description=target.phrase,
        )
        for ring in rings
    ]
