"""Label Studio's ML backend: clicks, a text prompt, a question of the task or the labels → brush masks.

Label Studio → /setup, /predict → image from Label Studio → pixellm server → targets → regions with its run lengths
Label Studio → /webhook → image from Label Studio, regions → corrections → pixellm server
"""

import base64
import binascii
import hmac
import json
import logging
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import Request, urlopen

import numpy as np
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

from pixellm.imaging.visual_prompts import Marks
from pixellm.integrations.label_studio_annotations import SUBMITTED, corrections_of, rows_of, texts
from pixellm.integrations.label_studio_clicks import read_clicks
from pixellm.integrations.remote import PromptQuestion, RemoteSegmenter, question_about, read_prompt
from pixellm.types import Answer, Target
from pixellm.utils.limits import FETCH_SECONDS, MAX_BODY_BYTES

logger = logging.getLogger(__name__)

RUN_BITS = (3, 4, 8, 16)  # bits of the four kinds of run lengths, as Label Studio's own encoder has them
CHANNELS = 4  # its masks are RGBA, all channels alike
PERSONAL_TOKEN_DOTS = 2  # a personal access token is a JWT, which is exchanged for a short one; a legacy token is not


def encode_brush(mask: np.ndarray) -> list[int]:
    """Return Label Studio's run lengths of a bool (H, W) mask, bytes 0..255 (@thi.ng/rle-pack, 8-bit words).

    32 bits number of values, 5 bits word size − 1, four times 4 bits run bits − 1; then for each run 1 (a run), 2 bits
    kind, its length − 1, the value.
    """
    values = np.flatnonzero(np.diff(mask.ravel(), prepend=~mask.ravel()[:1]))
    lengths = np.diff(values, append=mask.size) * CHANNELS
    bits = [f"{mask.size * CHANNELS:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    value, longest = bool(mask.flat[0]), 1 << RUN_BITS[-1]
    for length in lengths.tolist():
        for start in range(0, length, longest):
            run = min(longest, length - start)
            kind = next(kind for kind, size in enumerate(RUN_BITS) if run <= 1 << size)
            bits.append(f"1{kind:02b}{run - 1:0{RUN_BITS[kind]}b}{255 * value:08b}")
        value = not value
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8))


@dataclass(frozen=True)
class LabelConfig:
    """Names in a labeling configuration.

    Args:
        brush: name of its BrushLabels.
        image: name of its Image.
        field: field of the tasks' data that holds the image.
        labels: names of the labels.
        prompts: names of its TextAreas, which hold text prompts.
    """

    brush: str
    image: str
    field: str
    labels: tuple[str, ...]
    prompts: tuple[str, ...]

    @classmethod
    def parse(cls, xml: str) -> "LabelConfig":
        """Read Label Studio's XML.

        Raises:
            ValueError: no XML, or one without BrushLabels for an Image.
        """
        try:
            root = ElementTree.fromstring(xml)
        except ElementTree.ParseError as error:
            raise ValueError(f"expected a labeling configuration in XML, got an error: {error}.") from None
        images = {tag.get("name"): tag for tag in root.iter("Image")}
        for brush in root.iter("BrushLabels"):
            image = images.get(brush.get("toName"))
            if image is not None:
                name = str(image.get("name"))
                prompts = [str(tag.get("name")) for tag in root.iter("TextArea") if tag.get("toName") == name]
                labels = [str(label.get("value")) for label in brush.iter("Label")]
                field = str(image.get("value")).removeprefix("$")
                return cls(str(brush.get("name")), name, field, tuple(labels), tuple(prompts))
        raise ValueError("expected a labeling configuration with <BrushLabels toName=…> for an <Image>, got none.")

    def label_of(self, *names: str) -> list[str]:
        """Return the label of the first of these names that has one; else the only label if there is one; else none.

        A name is a typed phrase, or the category of a target.
        """
        by_name = {label.casefold(): label for label in self.labels}
        for words in (name.casefold() for name in names):
            if words in by_name:
                return [by_name[words]]
            if inside := [label for name, label in by_name.items() if f" {name} " in f" {words} "]:
                return [max(inside, key=len)]
        return list(self.labels) if len(self.labels) == 1 else []


class TaskImages:
    """Fetches the images of tasks: from Label Studio with its token, from `hosts`, or out of a data URI.

    Args:
        url: Label Studio's address.
        token: an access token of a user who may see the images, of either kind; "": none.
        hosts: HOST[:PORT] of other servers that images may be fetched from, without a token.
    """

    def __init__(self, url: str, token: str = "", hosts: Sequence[str] = ()) -> None:
        self.url, self.token, self.hosts = url.rstrip("/") + "/", token, tuple(hosts)

    def fetch(self, place: str) -> bytes:
        """Return the file behind a task's field.

        Raises:
            ValueError: a host that is not allowed, nothing there, or more than 16 MiB.
        """
        if place.startswith("data:"):
            try:
                return base64.b64decode(place.partition(",")[2], validate=True)
            except binascii.Error as error:
                raise ValueError(f"expected an image in base64 in a task, got an error: {error}.") from None
        url = urljoin(self.url, place)
        parts, own = urlsplit(url), urlsplit(self.url)
        is_own = (parts.scheme, parts.netloc) == (own.scheme, own.netloc)
        if parts.scheme not in ("http", "https") or not (is_own or parts.netloc in self.hosts):
            raise ValueError(
                f"expected an image of {own.netloc} or a host of --image-host, got one at {parts.scheme}://"
                f"{parts.netloc}. Allow that host, or upload the image to Label Studio."
            )
        request = Request(url)
        if is_own and self.token:
            request.add_unredirected_header("Authorization", self._authorization())
        return _read(request)

    def _authorization(self) -> str:
        if self.token.count(".") != PERSONAL_TOKEN_DOTS:
            return f"Token {self.token}"
        body = json.dumps({"refresh": self.token}).encode()
        request = Request(urljoin(self.url, "api/token/refresh"), body, {"Content-Type": "application/json"})
        return f"Bearer {json.loads(_read(request))['access']}"


def _read(request: Request) -> bytes:
    try:
        with urlopen(request, timeout=FETCH_SECONDS) as response:
            data = response.read(MAX_BODY_BYTES + 1)
    except (URLError, TimeoutError, ConnectionError) as error:
        advice = "Check LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY."
        raise ValueError(f"expected an image at {request.full_url}, got: {error}. {advice}") from None
    if len(data) > MAX_BODY_BYTES:
        raise ValueError(f"expected an image of at most {MAX_BODY_BYTES:,} bytes at {request.full_url}, got more.")
    return data


class TaskParams(BaseModel):
    """Marks and texts that a user gave with a task."""

    context: dict[str, Any] | None = None


class PredictRequest(BaseModel):
    """Body of Label Studio's POST /predict; its other fields are not used."""

    tasks: list[dict[str, Any]]
    label_config: str
    params: TaskParams | None = None


class LabelStudioBackend:
    """Predicts the regions of tasks.

    Args:
        segmenter: the pixellm server that answers.
        images: where the images of tasks are.
        question_field: field of a task's data with its question, where it has one.
    """

    def __init__(self, segmenter: RemoteSegmenter, images: TaskImages, question_field: str = "question") -> None:
        self.segmenter, self.images, self.question_field = segmenter, images, question_field

    def predict(self, request: PredictRequest) -> list[Any]:
        """Return a prediction for each task; of several, an empty list for one that failed, which is logged.

        Raises:
            ValueError: a labeling configuration without brush, or a single task that failed.
        """
        config = LabelConfig.parse(request.label_config)
        context = (request.params and request.params.context) or {}
        predictions: list[Any] = []
        for task in request.tasks:
            try:
                predictions.append(self._predict(task, config, context))
            except ValueError as error:
                if len(request.tasks) == 1:
                    raise
                logger.warning("task %s: %s", task.get("id"), error)
                predictions.append([])
        return predictions

    def keep(self, event: Mapping[str, Any]) -> int:
        """Send the corrections of a submitted annotation to the pixellm server; return how many.

        Raises:
            ValueError: no brush in the labeling configuration, no image, or the server keeps none.
        """
        try:
            annotation, data = event["annotation"], event["task"]["data"]
            xml = event["project"]["label_config"]
            if not (isinstance(annotation, dict) and isinstance(data, dict) and isinstance(xml, str)):
                raise TypeError
        except (KeyError, TypeError):
            raise ValueError(
                "expected an event with annotation, task and project, got less. Switch on the payload of the webhook."
            ) from None
        if annotation.get("was_cancelled"):  # skipped: it says nothing
            return 0
        config = LabelConfig.parse(xml)
        corrections = corrections_of(event, config.brush)
        file = self.images.fetch(str(data.get(config.field))) if corrections else b""
        for correction in corrections:
            self.segmenter.send_correction(correction, file)
        return len(corrections)

    def _predict(self, task: dict[str, Any], config: LabelConfig, context: Mapping[str, Any]) -> dict[str, Any]:
        data = task.get("data")
        if not isinstance(data, dict) or not isinstance(place := data.get(config.field), str):
            raise ValueError(f"expected an image in the field {config.field} of a task, got none.")
        clicks = read_clicks(context, config.image)
        if clicks is not None:
            return self._refine(self.images.fetch(place), config, *clicks)
        asked = typed_prompt(context, config) or str(data.get(self.question_field) or "").strip()
        # Without words of a user every label is a question.
        questions = (
            read_prompt(asked) if asked else [PromptQuestion(question_about(label), label) for label in config.labels]
        )
        file = self.images.fetch(place)
        regions, confidences = [], []
        for question, phrase in questions:
            answer = self.segmenter.ask_about_file(file, question)
            for target in (target for target in answer.targets if target.area):
                regions.append(region(answer, target, config, config.label_of(phrase, target.category)))
                confidences.append(target.confidence or 0.0)
        return {
            "result": regions,
            "score": round(sum(confidences) / len(confidences), 4) if confidences else 0.0,
            "model_version": self.segmenter.model_name(),
        }

    def _refine(self, file: bytes, config: LabelConfig, marks: Marks, labels: list[str]) -> dict[str, Any]:
        """Return the mask of the object that a user has marked, as if the marks were made one after another."""
        target = None
        for step in marks.in_turn():
            target = self.segmenter.refine_in_file(file, target, step)
        assert target is not None
        height, width = target.rle["size"]
        answer = Answer("", "", (target,), (height, width))
        known = [label for label in labels if label in config.labels] or config.label_of()
        return {
            "result": [region(answer, target, config, known)] if target.area else [],
            "score": round(target.score or 0.0, 4),
            "model_version": self.segmenter.model_name(),
        }


def typed_prompt(context: Mapping[str, Any], config: LabelConfig) -> str:
    """Return what the user has typed into a TextArea of the configuration; "" if nothing."""
    for row in rows_of(context):
        value = row.get("value")
        if row.get("type") == "textarea" and row.get("from_name") in config.prompts and isinstance(value, dict):
            return " ".join(texts(value.get("text"))).strip()
    return ""


def region(answer: Answer, target: Target, config: LabelConfig, labels: Sequence[str]) -> dict[str, Any]:
    """Return a target as a brush region; its phrase is the region's note."""
    height, width = answer.original_hw
    return {
        "id": uuid.uuid4().hex[:10],
        "from_name": config.brush,
        "to_name": config.image,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(target.mask), "brushlabels": list(labels)},
        "score": round(target.confidence or 0.0, 4),
        "meta": {"text": [target.phrase]},
    }


def _authentication(password: str) -> Callable[..., None]:
    """Return a dependency that refuses requests without the password; "": none is needed."""

    def authenticate(authorization: Annotated[str, Header()] = "") -> None:
        scheme, _, credentials = authorization.partition(" ")
        try:
            given = base64.b64decode(credentials, validate=True).partition(b":")[2]
        except binascii.Error:
            given = b""
        if password and not (hmac.compare_digest(given, password.encode()) and scheme.lower() == "basic"):
            raise HTTPException(401, "expected the password of this backend.", {"WWW-Authenticate": "Basic"})

    return authenticate


def create_backend(backend: LabelStudioBackend, password: str = "") -> FastAPI:
    """Build the application.

    Args:
        backend: what predicts.
        password: for HTTP basic authentication, with any user name; "": everyone may ask.
    """
    authenticate = _authentication(password)

    def version() -> str:
        try:
            return backend.segmenter.model_name()
        except ValueError as error:
            raise HTTPException(503, str(error)) from None

    app = FastAPI(title="pixellm for Label Studio", docs_url=None, redoc_url=None)

    @app.get("/")
    @app.get("/health")
    def health() -> dict[str, str]:
        """Say that the backend is there."""
        return {"status": "UP", "model_class": "PixelLM"}

    @app.post("/setup", dependencies=[Depends(authenticate)])
    def setup() -> dict[str, str]:
        """Answer a project that connects; predictions of another version are made anew."""
        return {"model_version": version()}

    @app.get("/versions", dependencies=[Depends(authenticate)])
    def versions() -> dict[str, list[str]]:
        """List the served model."""
        return {"versions": [version()]}

    @app.post("/predict", dependencies=[Depends(authenticate)])
    def predict(request: PredictRequest) -> dict[str, Any]:
        """Predict the regions of tasks."""
        try:
            return {"results": backend.predict(request)}
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

    @app.post("/webhook", dependencies=[Depends(authenticate)])
    def webhook(event: dict[str, Any]) -> dict[str, Any]:
        """Keep a submitted annotation as corrections; other events are ignored, and nothing is trained at once."""
        if event.get("action") not in SUBMITTED:
            return {"status": "ignored"}
        try:
            return {"status": "kept", "corrections": backend.keep(event)}
        except ValueError as error:  # Label Studio does not show it
            annotation = event.get("annotation")
            number = annotation.get("id") if isinstance(annotation, dict) else None
            logger.warning("annotation %s was not kept: %s", number, error)
            raise HTTPException(400, str(error)) from None

    return app
