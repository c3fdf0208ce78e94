"""MCP server: an agent asks about images and gets text, boxes, masks and pictures (`pixellm mcp`).

ask | segment | cut_out | refine → one thread that holds the segmenter → text and pictures, and structured content
save_correction → the same thread → POST /v1/corrections of a server

The official `mcp` package speaks the protocol (the extra `mcp`).
"""

import base64
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.parse import urlparse
from urllib.request import url2pathname

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from PIL import Image
from pydantic import BaseModel, Field

import pixellm
from pixellm.data.corrections import Correction
from pixellm.imaging import masks
from pixellm.imaging.images import EXAMPLE, URL, load_image
from pixellm.imaging.overlay import cut_out as cut_out_of
from pixellm.imaging.overlay import draw
from pixellm.imaging.visual_prompts import Marks
from pixellm.integrations.remote import RemoteSegmenter, question_about
from pixellm.types import Answer, Segmenter, Target
from pixellm.utils.limits import MAX_MARKS

INSTRUCTIONS = (
    "Answers questions about images with text and a pixel-exact mask for each object that the text names. "
    "ask: any question, in words; segment: masks of objects whose names you know; cut_out: objects without their "
    "background; refine: correct a mask by points or a box. Images are paths of files on the user's computer. An "
    "answer without targets means: not in the image."
)
SHOWN_SIDE = 1024  # pixels of the longer side of a picture in a result: clients limit a result to about 1 MB
JPEG_QUALITY = 85
MAX_PHRASES = 16
MAX_CUT_OUTS = 8

ImagePath = Annotated[str, Field(description="Path of an image file, file:// URI, or example:NAME (cat, coffee, …).")]
Segmentation = Annotated[
    dict | None,
    Field(description="Mask to correct: `segmentation` of segment or of an earlier refine; none: start from nothing."),
]
Points = Annotated[
    list[Annotated[list[float], Field(min_length=3, max_length=3)]],
    Field(max_length=MAX_MARKS, description="[x, y, label] in pixels; label 1: part of the object, 0: not part of it."),
]
Box = Annotated[
    Annotated[list[float], Field(min_length=4, max_length=4)] | None,
    Field(description="[x, y, width, height] in pixels around the object."),
]
MinScore = Annotated[
    float, Field(ge=0, le=1, description="Leave out targets whose presence (score without one) is lower; 0: none.")
]


class FoundTarget(BaseModel):
    """Target of an answer, without its mask."""

    phrase: str
    box: list[int] | None = Field(description="x, y, width, height in pixels; null for an empty mask.")
    area: int = Field(description="Number of mask pixels.")
    score: float | None = Field(description="Mean probability of the mask's pixels, 0 to 1.")
    presence: float | None = Field(description="Probability that the target is in the image, 0 to 1.")


class FoundMask(FoundTarget):
    """Target with its mask."""

    segmentation: dict = Field(description="Mask as compressed COCO RLE: size [height, width], counts.")


class AskResult(BaseModel):
    """Answer to a question."""

    text: str
    width: int
    height: int
    targets: list[FoundTarget]


class SegmentResult(BaseModel):
    """Masks of phrases: for each phrase the targets that were found, none where it is not in the image."""

    width: int
    height: int
    targets: dict[str, list[FoundMask]]


class RefineResult(BaseModel):
    """Corrected mask."""

    width: int
    height: int
    target: FoundMask


class SavedCorrection(BaseModel):
    """Place of a correction that the server keeps."""

    id: str
    image: str = Field(description="Path of the image, in the server's directory of corrections.")
    replaced: bool = Field(description="It took the place of an earlier one of the same image and phrase.")


class SavedCutOut(FoundTarget):
    """Target with the file of its cut-out, if files are written."""

    file: str | None


class CutOutResult(BaseModel):
    """Cut-outs, in the order of the pictures."""

    cut_outs: list[SavedCutOut]


class SegmenterThread:
    """One thread that loads a segmenter at once and then asks it; an image stays encoded while it is asked about.

    Args:
        load: returns the segmenter; a ValueError of it is raised by every question.
        roots: directories that images are read from; none: any.
    """

    def __init__(self, load: Callable[[], Segmenter], roots: Sequence[Path] = ()) -> None:
        self._roots = [root.resolve() for root in roots]
        self._pool = ThreadPoolExecutor(1, "segmenter")
        self._loading = self._pool.submit(load)
        self._encoded: tuple[object, Image.Image] | None = None

    def answers(self, source: str, questions: Sequence[str], min_score: float) -> list[Answer]:
        """Answer questions about the image at a path.

        Raises:
            ValueError: no image there or not below `roots`, or what the segmenter raises.
        """
        return self._pool.submit(self._answers, source, questions, min_score).result()

    def refined(self, source: str, segmentation: dict | None, phrase: str, marks: Marks) -> tuple[Target, Image.Image]:
        """Correct a mask on the image at a path, and return the target with that image; errors as in `answers`."""
        return self._pool.submit(self._refined, source, segmentation, phrase, marks).result()

    def kept(self, source: str, phrase: str, segmentation: dict, before: dict | None, question: str) -> SavedCorrection:
        """Send a corrected mask on the image at a path to the server, and return its place; errors as in `answers`."""
        return self._pool.submit(self._kept, source, phrase, segmentation, before, question).result()

    def _kept(
        self, source: str, phrase: str, segmentation: dict, before: dict | None, question: str
    ) -> SavedCorrection:
        segmenter, image = self._opened(source)
        assert isinstance(segmenter, RemoteSegmenter)
        correction = Correction(phrase, segmentation, before, question, tool="mcp")
        correction.check_size(image.height, image.width)
        return SavedCorrection(**segmenter.send_correction(correction))

    def _answers(self, source: str, questions: Sequence[str], min_score: float) -> list[Answer]:
        segmenter, image = self._opened(source)
        answers = segmenter.ask_many(questions)
        return [replace(answer.above(min_score), image=image) for answer in answers]

    def _refined(self, source: str, segmentation: dict | None, phrase: str, marks: Marks) -> tuple[Target, Image.Image]:
        segmenter, image = self._opened(source)
        size = (image.height, image.width)
        rle = masks.as_text(masks.empty(*size)) if segmentation is None else masks.read_rle(segmentation, *size)
        target = Target(phrase, (0, 0), rle)
        return segmenter.refine(target, points=marks.points, box=marks.box), image

    def _opened(self, source: str) -> tuple[Segmenter, Image.Image]:
        """Return the segmenter, with the image at a path set."""
        place, segmenter = self._place(source), self._loading.result()
        is_file = isinstance(place, Path) and place.is_file()  # `load_image` says what is wrong with all others
        state = (place, place.stat().st_mtime_ns, place.stat().st_size) if is_file else place
        if self._encoded is None or self._encoded[0] != state:
            self._encoded = None
            image = load_image(place)
            segmenter.set_image(image)
            self._encoded = (state, image)
        return segmenter, self._encoded[1]

    def _place(self, source: str) -> str | Path:
        """Return `example:NAME` as it is, else the path of a file; a ValueError if it may not be read."""
        is_file_uri = source.startswith("file://")
        if source.startswith(EXAMPLE) or (URL.match(source) and not is_file_uri):
            return source
        path = Path(url2pathname(urlparse(source).path) if is_file_uri else source).expanduser()
        if self._roots and not any(path.resolve().is_relative_to(root) for root in self._roots):
            raise ValueError(f"expected an image below {', '.join(map(str, self._roots))}, got {source}.")
        return path


@contextmanager
def _tool_errors() -> Iterator[None]:
    """Give the messages that are meant for users to the agent; the SDK hides all others."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise ToolError(str(error)) from error


def create_server(thread: SegmenterThread, out: Path | None = None, keeps: bool = False) -> MCPServer:
    """Build the server with its tools.

    Args:
        thread: what answers.
        out: directory that `cut_out` writes its files to; None: it writes none.
        keeps: offer `save_correction`; the segmenter of `thread` is a `RemoteSegmenter`.
    """
    server = MCPServer(
        "pixellm", title="PixelLM", instructions=INSTRUCTIONS, version=pixellm.__version__, log_level="WARNING"
    )
    reading = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    writing = reading if out is None else ToolAnnotations(destructive_hint=False, open_world_hint=False)

    @server.tool(annotations=reading)
    def ask(image: ImagePath, question: str, min_score: MinScore = 0.0) -> Annotated[CallToolResult, AskResult]:
        """Answer a question about an image: text, a box for each object that it names, the image with the masks."""
        with _tool_errors():
            (answer,) = thread.answers(image, [question], min_score)
        height, width = answer.original_hw
        found = [FoundTarget(**_fields(target)) for target in answer.targets]
        result = AskResult(text=answer.text, width=width, height=height, targets=found)
        return _result([answer.text, *map(_line, answer.targets)], [_jpeg(answer.overlay())], result)

    @server.tool(annotations=reading)
    def segment(
        image: ImagePath,
        phrases: Annotated[list[str], Field(min_length=1, max_length=MAX_PHRASES, description="Names of objects.")],
        min_score: MinScore = 0.0,
    ) -> Annotated[CallToolResult, SegmentResult]:
        """Segment objects by their names: a mask (COCO RLE) and box for each, and the image with the masks."""
        with _tool_errors():
            answers = thread.answers(image, [question_about(phrase) for phrase in phrases], min_score)
        height, width = answers[0].original_hw
        found = {
            phrase: [FoundMask(**_fields(target), segmentation=dict(target.rle)) for target in answer.targets]
            for phrase, answer in zip(phrases, answers, strict=True)
        }
        targets = [target for answer in answers for target in answer.targets]
        assert answers[0].image is not None
        picture = draw(answers[0].image, [target.rle for target in targets], [target.phrase for target in targets])
        absent = [f"{phrase}: not found" for phrase, masks in found.items() if not masks]
        result = SegmentResult(width=width, height=height, targets=found)
        return _result([*map(_line, targets), *absent], [_jpeg(picture)], result)

    _add_refine(server, thread, reading)
    if keeps:
        _add_save_correction(server, thread)
    _add_cut_out(server, thread, writing, out)
    return server


def _add_refine(server: MCPServer, thread: SegmenterThread, reading: ToolAnnotations) -> None:
    """Add the tool that corrects masks."""

    @server.tool(annotations=reading)
    def refine(
        image: ImagePath,
        points: Points = [],  # noqa: B006  described as the default, never changed
        box: Box = None,
        segmentation: Segmentation = None,
        phrase: str = "",
    ) -> Annotated[CallToolResult, RefineResult]:
        """Correct a mask by points on and off the object, or a box around it: the new mask, and the image with it."""
        with _tool_errors():
            target, opened = thread.refined(image, segmentation, phrase, Marks(points, box))
        found = FoundMask(**_fields(target), segmentation=dict(target.rle))
        result = RefineResult(width=opened.width, height=opened.height, target=found)
        return _result([_line(target)], [_jpeg(draw(opened, [target.rle], [target.phrase]))], result)


def _add_save_correction(server: MCPServer, thread: SegmenterThread) -> None:
    """Add the tool that keeps corrections; clients ask their user before they call a tool that may overwrite."""

    @server.tool(
        annotations=ToolAnnotations(
            read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
        )
    )
    def save_correction(
        image: ImagePath,
        phrase: Annotated[str, Field(description="Words of the object.")],
        segmentation: Annotated[
            dict, Field(description="The mask as it should be; an empty one: the image does not show the object.")
        ],
        before: Annotated[dict | None, Field(description="The mask of segment, if it gave one.")] = None,
        question: Annotated[str, Field(description="A question that asks for this object alone; empty: none.")] = "",
    ) -> Annotated[CallToolResult, SavedCorrection]:
        """Keep a mask as training data, in place of an earlier one; only when the user has agreed to this mask."""
        with _tool_errors():
            saved = thread.kept(image, phrase, segmentation, before, question)
        return _result([f"{phrase}: kept{' in place of an earlier one' if saved.replaced else ''}"], [], saved)


def _add_cut_out(server: MCPServer, thread: SegmenterThread, writing: ToolAnnotations, out: Path | None) -> None:
    """Add the tool that cuts objects out, and writes them to `out` if there is one."""

    @server.tool(annotations=writing)
    def cut_out(image: ImagePath, phrase: str, min_score: MinScore = 0.0) -> Annotated[CallToolResult, CutOutResult]:
        """Cut objects out of an image by their name: one picture with a transparent background for each."""
        with _tool_errors():
            (answer,) = thread.answers(image, [question_about(phrase)], min_score)
            targets = [target for target in answer.targets if target.area][:MAX_CUT_OUTS]
            assert answer.image is not None
            pictures = [cut_out_of(answer.image, target.mask) for target in targets]
            stem = Path(image.removeprefix(EXAMPLE)).stem
            files = [None if out is None else str(save_new(picture, out, f"{stem}-cut-out")) for picture in pictures]
        saved = [SavedCutOut(**_fields(target), file=file) for target, file in zip(targets, files, strict=True)]
        lines = [*map(_line, targets), *[file for file in files if file]]
        return _result(lines or [f"{phrase}: not found"], [*map(_png, pictures)], CutOutResult(cut_outs=saved))


def _fields(target: Target) -> dict:
    """Return the fields of `FoundTarget`."""
    row = target.to_json()
    return {name: row.get(name) for name in ("phrase", "box", "area", "score", "presence")}


def _line(target: Target) -> str:
    """Describe a target in one line: the structured content is not shown by every client."""
    box = "empty mask" if target.box is None else "box x={} y={} width={} height={}".format(*target.box)
    line = f"{target.phrase or 'object'}: {box}, {target.area} px"
    kind = "score" if target.presence is None else "presence"
    return line if target.confidence is None else f"{line}, {kind} {target.confidence:.2f}"


def save_new(picture: Image.Image, folder: Path, stem: str) -> Path:
    """Write a PNG under a name that is still free, and return its path: agents never overwrite a file."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    for number in itertools.count(1):
        path = folder / f"{stem}-{number}.png"
        with suppress(FileExistsError), path.open("xb") as file:
            file.write(stream.getbuffer())
            return path
    raise AssertionError("endless")


def _result(lines: Sequence[str], pictures: Sequence[ImageContent], result: BaseModel) -> CallToolResult:
    text = TextContent(type="text", text="\n".join(lines))
    return CallToolResult(content=[text, *pictures], structured_content=result.model_dump(mode="json"))


def _jpeg(picture: Image.Image) -> ImageContent:
    return _content(picture, "JPEG", "image/jpeg")


def _png(picture: Image.Image) -> ImageContent:
    return _content(picture, "PNG", "image/png")


def _content(picture: Image.Image, kind: str, mime_type: str) -> ImageContent:
    """Encode a picture, scaled down to at most SHOWN_SIDE pixels."""
    shown, stream = picture.copy(), io.BytesIO()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    shown.save(stream, kind, quality=JPEG_QUALITY)
    return ImageContent(type="image", data=base64.b64encode(stream.getvalue()).decode("ascii"), mime_type=mime_type)
