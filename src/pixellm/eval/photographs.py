"""The benchmark of the embedded model: fixed questions on COCO-format photographs, answered by generating.

    build_questions → ask (never teacher-forced) → match masks → Result → Report

Five kinds: one category, several, everything, what is known of things without naming them, and what is not there.
"""

import hashlib
import json
import logging
import math
import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixellm import __version__
from pixellm.data.coco import CocoSource
from pixellm.data.grammar import MAX_SLOTS, knowledge_exchanges
from pixellm.data.knowledge import related, surely_absent
from pixellm.data.records import AnnotatedImage
from pixellm.data.templates import all_question, category_question, several_question
from pixellm.eval.matching import Score, match, names_category
from pixellm.eval.metrics import IouSum, Overlap, overlap
from pixellm.eval.resumable import append, ask_all, resume, write
from pixellm.imaging import masks
from pixellm.types import Answer, Segmenter
from pixellm.utils.files import exclusive_lock, write_text

if TYPE_CHECKING:
    from pixellm.inference.quantization import Quantize

logger = logging.getLogger(__name__)

KINDS = ("category", "several", "all", "knowledge", "nothing")
MIN_AREA = 0.001  # of the image: what covers less is not asked for together with other things
PROTOCOL = 1  # raise it whenever questions or scores change: results of another protocol are refused


@dataclass(frozen=True)
class Question:
    """One question on photograph `index` of a source.

    `names`: the categories that it asks for, whose united masks are the targets; none where nothing fits. `detail`: the
    attribute asked for by knowledge; where nothing fits, "any" or "related" (categories) or "knowledge".
    """

    index: int
    record_id: int
    file_name: str
    kind: str
    text: str
    names: tuple[str, ...]
    detail: str = ""

    @property
    def key(self) -> str:
        return f"{self.record_id} {self.kind} {self.text}"


@dataclass(frozen=True)
class Result:
    """A question's answer: `targets` as in `Answer.to_json`; one score for each thing asked for and mask too many."""

    record_id: int
    file_name: str
    kind: str
    detail: str
    question: str
    answer: str
    targets: tuple[dict[str, Any], ...]
    scores: tuple[Score, ...]

    @property
    def key(self) -> str:
        return f"{self.record_id} {self.kind} {self.question}"

    @property
    def iou(self) -> float:
        """Mean over the scores; where nothing fits: 1 for an answer without a mask, 0 for one with."""
        if not self.scores:
            return float(not self.targets)
        return sum(score.iou for score in self.scores) / len(self.scores)

    @property
    def misnamed(self) -> bool:
        """Whether a mask that touches its target has a phrase that does not name the target's category."""
        return any(score.iou > 0 and not score.named for score in self.scores)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Result":
        scores = tuple(Score(**score) for score in row["scores"])
        return cls(**{**row, "targets": tuple(row["targets"]), "scores": scores})


def build_questions(source: CocoSource, limit: int | None = None) -> list[Question]:
    """The questions on the first `limit` photographs of a source, or on all; the same source gives the same ones."""
    count = len(source) if limit is None else min(limit, len(source))
    return [question for index in range(count) for question in _questions(source, index)]


def _questions(source: CocoSource, index: int) -> Iterator[Question]:
    annotated, record = source[index].decode(), source.rows[index]
    rng = random.Random(f"{index}")

    def ask(kind: str, text: str, names: Sequence[str] = (), detail: str = "") -> Question:
        return Question(index, record["id"], record["file_name"], kind, text, tuple(names), detail)

    things = annotated.instances
    boxed = {name for name, _ in annotated.boxes}  # known by box alone: present, but without a whole mask
    present = {thing.category for thing in things} | boxed
    single = {thing.category for thing in things if source.merged or not thing.merged}
    yield from (ask("category", category_question(name), [name]) for name in sorted(single - boxed))

    area = {name: float(mask.mean()) for name, mask in annotated.category_masks().items() if name not in boxed}
    large = sorted((name for name in area if area[name] >= MIN_AREA), key=lambda name: (-area[name], name))
    if len(large) >= 2:
        chosen = large[: rng.randint(2, min(4, len(large)))]
        yield ask("several", several_question(chosen), chosen)
    if not source.complete:  # neither "everything" nor "nothing" can be judged
        return
    if large:
        yield ask("all", all_question(), large[:MAX_SLOTS])
    for detail, name in _absent(present, source.categories, rng):
        yield ask("nothing", category_question(name), detail=detail)
    if not boxed:
        exchanges = knowledge_exchanges(annotated)
        for kind, detail in (("nothing", "knowledge"), ("knowledge", "")):
            if keys := [key for key, exchange in exchanges.items() if exchange.kind == kind]:
                key = rng.choice(keys)
                names = [target.category for target in exchanges[key].targets]
                yield ask(kind, exchanges[key].question, names, detail or key)


def _absent(present: set[str], known: frozenset[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Two categories that are surely not there: any, and one that shares an attribute with something that is."""
    absent = surely_absent(present, known)
    if absent:
        name = rng.choice(absent)
        yield "any", name
        absent.remove(name)
    alike = frozenset().union(*(related(name) for name in present))
    likely = [name for name in absent if name in alike]
    if absent:
        yield ("related", rng.choice(likely)) if likely else ("any", rng.choice(absent))


def score(question: Question, answer: Answer, photograph: AnnotatedImage, known: frozenset[str]) -> Result:
    """Compare an answer with the photograph's annotations."""
    united = photograph.category_masks()
    targets = [masks.encode(united[name]) for name in question.names]
    predicted = [target.rle for target in answer.targets]
    phrases = [target.phrase for target in answer.targets]
    if question.kind == "category":  # as many masks as the model likes, for instance one for each thing
        name = question.names[0]
        counts = overlap(masks.united([predicted], *targets[0]["size"]), targets[0])
        phrase = phrases[0] if phrases else None
        scores = [Score(name, phrase, *counts, phrase is not None and names_category(phrase, name, known))]
    elif question.names:
        scores = []
        for pair in match(predicted, targets):
            name = None if pair.target is None else question.names[pair.target]
            phrase = None if pair.predicted is None else phrases[pair.predicted]
            named = name is not None and phrase is not None and names_category(phrase, name, known)
            scores.append(Score(name, phrase, *pair.counts, named))
    else:
        scores = []
    rows = tuple(answer.to_json()["targets"])
    meta = (question.record_id, question.file_name, question.kind, question.detail)
    return Result(*meta, question.text, answer.text, rows, tuple(scores))


@dataclass(frozen=True)
class Report:
    """All results in the order of the questions, and what they were made from."""

    results: tuple[Result, ...]
    fingerprint: dict[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and, for each kind that was asked, the scores in 0..1; ready for JSON.

        `giou` is the mean IoU over pairs, `ciou` Σ I / Σ U. `named_giou` counts a pair's IoU only where its phrase
        names the category. `naming`: share of the answers whose first phrase names it. `with_mask`, `without_mask`:
        share of the answers with, without a mask in the text, be it empty.
        """
        by_kind = {kind: [r for r in self.results if r.kind == kind] for kind in KINDS}
        summary: dict[str, Any] = {
            "photographs": len({r.record_id for r in self.results}),
            "questions": len(self.results),
        }
        for kind, results in by_kind.items():
            if results:
                summary[kind] = _silence(results) if kind == "nothing" else _quality(kind, results)
        return summary

    def markdown(self) -> str:
        """The summary as a table, in percent."""
        columns = ("questions", "giou", "ciou", "named_giou", "naming", "with_mask", "without_mask")
        titles = ("questions", "gIoU", "cIoU", "gIoU of named", "naming", "with a mask", "without a mask")
        lines = [f"| kind | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
        for kind in KINDS:
            row = self.summary.get(kind, {})
            for name, scores in {
                kind: row,
                **{f"{kind}, {key}": part for key, part in row.get("by", {}).items()},
            }.items():
                if scores:
                    cells = [_cell(column, scores.get(column)) for column in columns]
                    lines.append(f"| {name} | {' | '.join(cells)} |")
        about = f"{self.summary['photographs']} photographs, {self.summary['questions']} questions; scores in percent."
        return "\n".join([about, "", *lines, ""])


def _quality(kind: str, results: Sequence[Result]) -> dict[str, Any]:
    total, named = IouSum(), IouSum()
    for pair in (pair for result in results for pair in result.scores):
        total.add(Overlap(pair.intersection, pair.union), pair.iou)
        named.add(Overlap(pair.intersection, pair.union), pair.iou if pair.named else 0.0)
    row = {"questions": len(results), "pairs": total.pairs, "giou": total.giou, "ciou": total.ciou}
    row["named_giou"] = named.giou
    if kind == "category":
        row["naming"] = sum(result.scores[0].named for result in results) / len(results)
    row["with_mask"] = sum(bool(result.targets) for result in results) / len(results)
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def _silence(results: Sequence[Result]) -> dict[str, Any]:
    def row(chosen: Sequence[Result]) -> dict[str, Any]:
        return {"questions": len(chosen), "without_mask": sum(not r.targets for r in chosen) / len(chosen)}

    details = sorted({result.detail for result in results})
    return {**row(results), "by": {detail: row([r for r in results if r.detail == detail]) for detail in details}}


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value}" if column == "questions" else f"{100 * value:.1f}"


def evaluate(
    segmenter: Segmenter,
    source: CocoSource,
    questions: Sequence[Question],
    progress: bool = False,
    path: Path | None = None,
    model: str = "",
) -> Report:
    """Ask all questions and score the answers.

    Args:
        segmenter: gets each photograph once; with an `ask_many`, several questions on it at a time.
        source: the photographs that the questions were built from.
        questions: see `build_questions`.
        progress: show a progress bar.
        path: a JSON-lines file that each photograph's results are appended to. If it is there already, from an
            interrupted or a complete evaluation of the same things, the questions in it are not asked again.
        model: what identifies the model's weights.

    Raises:
        ValueError: `path` holds the results of something else.
    """
    from rich.console import Console
    from rich.progress import Progress

    fingerprint = _fingerprint(source, questions, model)
    rows = resume(path, fingerprint, Result.from_json) if path else []
    done = {result.key: result for result in rows}
    pending: dict[int, list[Question]] = defaultdict(list)
    for question in questions:
        if question.key not in done:
            pending[question.index].append(question)
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(
            "questions", total=len(questions), completed=len(questions) - sum(map(len, pending.values()))
        )
        for index, asked in pending.items():
            photograph = source[index].decode()
            segmenter.set_image(photograph.image)
            answers = ask_all(segmenter, [question.text for question in asked])
            results = [score(q, a, photograph, source.categories) for q, a in zip(asked, answers, strict=True)]
            done.update((result.key, result) for result in results)
            if path:
                append(path, map(asdict, results))
            bar.advance(task, len(asked))
    report = Report(tuple(done[question.key] for question in questions), fingerprint)
    if path:
        write(path, fingerprint, map(asdict, report.results))
    return report


def _fingerprint(source: CocoSource, questions: Sequence[Question], model: str) -> dict[str, Any]:
    """What results depend on; the images are taken to be those that the annotations were made for."""
    asked = json.dumps([asdict(question) for question in questions])
    return {
        "protocol": PROTOCOL,
        "pixellm": __version__,
        "model": model,
        "annotations": hashlib.sha256(source.annotations.read_bytes()).hexdigest()[:16],
        "questions": hashlib.sha256(asked.encode()).hexdigest()[:16],
    }


def run(
    model: str | Path,
    annotations: Path,
    images: Path,
    out: Path,
    limit: int | None = None,
    licences: Collection[int] | None = None,
    namer: str | None = None,
    quantize: "Quantize | None" = None,
) -> Report:
    """Evaluate a model and write `results.jsonl`, `summary.json`, `summary.md` and `sheet.jpg`.

    Interrupted, it goes on from where it was when it is called again.

    Args:
        model: see `pixellm.segmenter.load_segmenter`.
        annotations: COCO-format file in which every instance of every category is annotated.
        images: folder of its photographs.
        out: directory for the results.
        limit: ask about the first photographs only.
        licences: show only photographs with these licence ids (COCO's) on the sheet; None shows any.
        namer: a first stage, see `load_segmenter`.
        quantize: of a language model's weights, see there.

    Raises:
        ValueError: no such model or annotations, or `out` holds the results of another evaluation, or one is at work.
    """
    from pixellm.eval.sheet import result_sheet
    from pixellm.segmenter import load_segmenter, weights_of

    source = CocoSource(Path(annotations), Path(images))
    questions = build_questions(source, limit)
    path = Path(out) / "results.jsonl"
    segmenter = load_segmenter(model, namer=namer, quantize=quantize)
    with exclusive_lock(path):
        report = evaluate(segmenter, source, questions, True, path, weights_of(model, namer, quantize))
    write_text(
        Path(out) / "summary.json", json.dumps({**report.summary, "fingerprint": report.fingerprint}, indent=2) + "\n"
    )
    write_text(Path(out) / "summary.md", report.markdown())
    result_sheet(report.results, source, Path(out) / "sheet.jpg", licences=licences)
    return report
