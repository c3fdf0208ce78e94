"""Routes for X-AnyLabeling's remote server (`pixellm serve --x-anylabeling`): text prompt, or clicks → polygons.

GET /x-anylabeling/v1/models · POST /x-anylabeling/v1/predict, behind the same checks and limits as the rest of the API

Under a prefix, because its `/v1/models` is not OpenAI's.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from pixellm.export.outlines import polygons
from pixellm.imaging import masks
from pixellm.imaging.visual_prompts import Marks
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
CLICKS = ("button_add_point", "button_remove_point", "button_add_rect", "button_clear", "button_finish_object")
MAX_CLICKS = 32  # of an object: each is a refinement of its own
CLICKED = "AUTOLABEL_OBJECT"  # its label of an object that is not finished


class Mark(RequestModel):
    """Click or box of a user, in pixels."""

    type: Literal["point", "rectangle"]
    data: list[float] = Field(min_length=2, max_length=4, description="x, y; of a rectangle two opposite corners.")
    label: Literal[0, 1] = Field(1, description="0: not of the object.")


class PredictParams(RequestModel):
    """Parameters of a prediction; X-AnyLabeling sends more, which mean nothing here."""

    text_prompt: str = ""
    conf_threshold: float | None = Field(None, ge=0, le=1, description="Least presence score of a shape.")
    epsilon_factor: float = Field(
        0.001, ge=0, le=1, description="Pixels that polygons may be off / outline of the box."
    )
    marks: list[Mark] = Field([], max_length=MAX_CLICKS, description="All marks of one object, in place of a prompt.")


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
        if handler.dispatcher.takes_prompts:
            widgets += [{"name": widget, "value": None} for widget in CLICKS]
        card = {"display_name": f"PixelLM · {name}", "widgets": widgets, "batch_processing_mode": "text_prompt"}
        return {"success": True, "data": {name: card}}

    @router.post("/predict", response_model=ShapesResponse)
    async def predict(request: Request) -> Response:
        """Answer a text prompt about an image, or the marks of one object, with polygons."""
        body, _ = await handler.read_body(request)
        asked = parse(ShapesRequest, body)
        _check_model(asked, name)
        if asked.params.marks:
            return await _refined(handler, request, asked)
        questions = _questions(asked)
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


async def _refined(handler: RequestHandler, request: Request, asked: ShapesRequest) -> Response:
    """Answer marks: as if they were made one after another, from an empty mask on."""
    handler.check_takes_prompts()
    marks = _marks(asked.params.marks)
    async with AsyncExitStack() as resources:
        image = await resources.enter_async_context(handler.image(request, None, asked.image))
        target = Target("", (0, 0), masks.as_text(masks.empty(image.size[1], image.size[0])))
        for step in marks.in_turn():
            pending = handler.submit_refinement(request, image, target, step)
            target = await until_disconnect(request.receive, handler.refined(pending))
        outlined = asyncio.to_thread(_outline, target, CLICKED, 1, asked.params.epsilon_factor)
        shapes = LabelmeShapes(shapes=await until_disconnect(request.receive, outlined), description="")
        return HoldingResponse(ShapesResponse(data=shapes).model_dump_json().encode(), JSON, resources.pop_all())


def _check_model(asked: ShapesRequest, name: str) -> None:
    if asked.model != name:
        raise ApiError(404, f"expected the model {name}, got {asked.model[:80]!r}.", "model_not_found", "model")


def _marks(given: list[Mark]) -> Marks:
    """Return the marks of an object; an ApiError for a malformed one, or a rectangle that takes away."""
    points, box = [], None
    for mark in given:
        if mark.type == "point" and len(mark.data) == 2:
            points.append((*mark.data, mark.label))
        elif mark.type == "rectangle" and len(mark.data) == 4 and mark.label:
            left, right = sorted(mark.data[::2])
            top, bottom = sorted(mark.data[1::2])
            box = (left, top, right - left, bottom - top)
        else:
            raise ApiError(400, "expected points, and rectangles around the object, got another mark.", param="marks")
    return Marks(points, box)


def _questions(asked: ShapesRequest) -> list[PromptQuestion]:
    """Return the questions of a request; an ApiError for none or too many."""
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
    """Return a polygon for each part of a mask, none of an empty one; parts of one target have one group."""
    if target.box is None:
        return []
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
