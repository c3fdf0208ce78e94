"""Output files of Sa2VA, Falcon-Perception and the SAM 3 agent, as answers to a benchmark's questions.

- `sa2va`, one JSON an image (`sa2va_eval_gcg.py`): `caption`, and the k-th of `pred_masks` for the k-th of `phrases`.
- `sa2va`, `ver_evaluation_results.json` (`vrt_eval_single.py`): of each of `detailed_results` what is in `<answer>`.
- `falcon-perception`, responses of its server: `query` with all its `masks`.
- `sam3-agent`, `…_pred.json` (`run_single_image_inference`): `text_prompt` with all `pred_masks` and `pred_scores`.

None of them knows our ids: answers are matched with questions by the name of the image and the text that was asked.
Read in the systems' code: bytedance/Sa2VA, tiiuae/Falcon-Perception, facebookresearch/sam3.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from pixellm.eval.predictions import read_answer
from pixellm.imaging import masks
from pixellm.types import SEG_SLOT, Answer, Target
from pixellm.utils.checks import check_score, clause, expect
from pixellm.utils.files import write_text

System = Literal["sa2va", "falcon-perception", "sam3-agent"]
PATTERNS: dict[System, str] = {"sa2va": "*.json", "falcon-perception": "*.json*", "sam3-agent": "*_pred.json"}
_TAGS = re.compile(r"</?p>|<\|[a-z_]+\|>|</?s>")
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)


def read_outputs(system: System, paths: Iterable[Path]) -> list[Answer]:
    """Read answers of a system; `image_path` and `question` are as it wrote them, ids are empty.

    Args:
        system: which one.
        paths: files, or directories with files as the system names them.

    Raises:
        ValueError: no such file, or content that is not in the system's format; it names the file.
    """
    answers: list[Answer] = []
    for path in paths:
        files = sorted(path.glob(PATTERNS[system])) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"expected files {PATTERNS[system]} of {system} in {path}, got none.")
        for file in files:
            try:
                answers += _READERS[system](file)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}: expected an output of {system}: {clause(error)}.") from None
            except OSError as error:
                raise ValueError(f"expected a file at {file} ({error.strerror}). Check the path.") from None
    return answers


def _sa2va(file: Path) -> Iterator[Answer]:
    row = expect(json.loads(file.read_text(encoding="utf-8")), dict, "a JSON object")
    if "detailed_results" in row:
        for entry in expect(row["detailed_results"], list, "a list of detailed_results"):
            yield _sa2va_ver(entry)
    else:
        yield _sa2va_caption(row)


def _sa2va_caption(row: dict[str, Any]) -> Answer:
    """Grounded caption: the k-th mask belongs to the k-th phrase, which stands in the caption."""
    image_id, caption, phrases, stored = _fields(row, image_id=str, caption=str, phrases=list, pred_masks=list)
    targets, start = [], 0
    for index, mask in enumerate(stored):
        phrase = " ".join(str(phrases[index]).split()) if index < len(phrases) else ""
        at = caption.find(phrase, start) if phrase else -1
        span = (0, len(caption)) if at < 0 else (at, at + len(phrase))
        start = max(start, at + len(phrase))
        targets.append(Target(caption[slice(*span)], span, masks.read_rle(mask)))
    return _answer(image_id, "", caption, targets)


def _sa2va_ver(row: Any) -> Answer:
    """Reasoning and answer, both with masks: those of the reasoning are left out."""
    info, prediction = _fields(row, sample_info=dict, prediction=dict)
    key, question = _fields(info, key=str, question=str)
    text, stored = _fields(prediction, text=str, answer_masks_rle=list)
    found = _ANSWER.search(text)
    said = _TAGS.sub("", found[1] if found else text.rpartition("</think>")[2])
    said = re.sub(r"\s*\[SEG\]", f" {SEG_SLOT}", said).strip()
    answer = read_answer({"id": key, "text": said, "masks": stored})
    return _answer(key, question, answer.text, answer.targets)


def _falcon(file: Path) -> Iterator[Answer]:
    """One response, a list of them, or one a line; `image` may be added to each, else the file is named after it."""
    text = file.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except ValueError:
        value = [json.loads(line) for line in text.splitlines() if line.strip()]
    for row in value if isinstance(value, list) else [value]:
        query, stored, height, width = _fields(row, query=str, masks=list, image_height=int, image_width=int)
        rles = [masks.read_rle(expect(mask, dict, "a mask").get("rle"), height, width) for mask in stored]
        image = expect(row.get("image", file.name), str, "the image's path")
        yield replace(_whole(image, query, rles, [None] * len(rles)), original_hw=(height, width))


def _sam3_agent(file: Path) -> Iterator[Answer]:
    row = expect(json.loads(file.read_text(encoding="utf-8")), dict, "a JSON object")
    prompt, image, height, width = _fields(row, text_prompt=str, image_path=str, orig_img_h=int, orig_img_w=int)
    stored, scores = _fields(row, pred_masks=list, pred_scores=list)
    if len(scores) != len(stored):
        raise ValueError(f"expected a score for each of {len(stored)} masks, got {len(scores)}")
    rles = [masks.read_rle({"size": [height, width], "counts": counts}) for counts in stored]
    yield replace(_whole(image, prompt, rles, [check_score(s) for s in scores]), original_hw=(height, width))


_READERS: dict[System, Callable[[Path], Iterator[Answer]]] = {
    "sa2va": _sa2va,
    "falcon-perception": _falcon,
    "sam3-agent": _sam3_agent,
}
assert tuple(_READERS) == get_args(System)


def _fields(row: Any, **kinds: type) -> list[Any]:
    """Return fields of a JSON object in the order of `kinds`; a ValueError if one is missing or of another kind."""
    row = expect(row, dict, "a JSON object")
    if missing := sorted(kinds.keys() - row.keys()):
        raise ValueError(f"expected the fields {', '.join(kinds)}, got none called {', '.join(missing)}")
    return [expect(row[name], kind, f"{name} as {kind.__name__}") for name, kind in kinds.items()]


def _whole(image: str, query: str, rles: Sequence[masks.Rle], scores: Sequence[float | None]) -> Answer:
    """Make an answer of a system that writes no text: the query is its text and the phrase of every mask."""
    span = (0, len(query))
    targets = [Target(query, span, rle, score) for rle, score in zip(rles, scores, strict=True)]
    return _answer(image, query, query if targets else "", targets)


def _answer(image: str, question: str, text: str, targets: Sequence[Target]) -> Answer:
    height, width = targets[0].rle["size"] if targets else (0, 0)
    return Answer(question, text, tuple(targets), (height, width), image_path=image)


def number(answers: Iterable[Answer]) -> list[Answer]:
    """Give answers ids without a benchmark: IMAGE/NUMBER, from 0, in their order."""
    seen: Counter[str] = Counter()
    numbered = []
    for answer in answers:
        stem = _stem(answer.image_path)
        numbered.append(replace(answer, id=f"{stem}/{seen[stem]}"))
        seen[stem] += 1
    return numbered


def match_questions(answers: Iterable[Answer], questions: Path) -> list[Answer]:
    """Give answers the ids, images and texts of the questions that they answer.

    An answer belongs to the question on the image of the same name (without folder and suffix) whose question or
    expression is what was asked, but for case, spaces and the full stop; several such questions are answered in order.
    Where the system keeps no question, it belongs to the image's next question.

    Args:
        answers: as `read_outputs` returns them.
        questions: JSON lines as `pixellm questions` writes them.

    Raises:
        ValueError: two images have one name, or no question is left for an answer.
    """
    places: dict[str, str] = {}
    open_rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in questions.read_text(encoding="utf-8").splitlines():
        row = expect(json.loads(line), dict, f"a question in each line of {questions}")
        image = _fields(row, id=str, image=str, question=str)[1]
        if places.setdefault(_stem(image), image) != image:
            raise ValueError(
                f"expected images with different names in {questions}, got {places[_stem(image)]}, {image}."
            )
        open_rows[_stem(image)].append(row)
    return [_with_question(answer, open_rows[_stem(answer.image_path)]) for answer in answers]


def _with_question(answer: Answer, rows: list[dict[str, Any]]) -> Answer:
    """Take the question of an answer out of those on its image that are left."""
    asked = _plain(answer.question)
    for row in rows:
        if not asked or asked in (_plain(row["question"]), _plain(str(row.get("expression", "")))):
            rows.remove(row)
            return replace(answer, id=row["id"], image_path=row["image"], question=row["question"])
    left = "; ".join(repr(row.get("expression") or row["question"]) for row in rows[:3]) or "none"
    raise ValueError(
        f"expected a question for the answer to {answer.question!r} on {answer.image_path}, got (left): {left}. "
        "Ask each system with the texts of `pixellm questions`, question or expression, and convert each answer once."
    )


def write_answers(answers: Iterable[Answer], system: System, path: Path) -> None:
    """Write a file of predictions, whose first line names the system."""
    rows = [{"fingerprint": {"answers": f"output files of {system}"}}, *(answer.to_json() for answer in answers)]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _stem(image: str) -> str:
    """Return an image's name without folder and suffix; a name without a suffix may have dots."""
    name = re.split(r"[/\\]", image)[-1]
    return re.sub(r"\.(?:jpe?g|png|bmp|webp|tiff?|gif|jsonl?)$", "", name, flags=re.IGNORECASE)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .?!")
