"""Benchmark "coco": fixed questions on images with COCO annotations, always answered by generating.

Five kinds: one category, several, everything, what is commonly known of objects without naming them, and what is not in
the image. Targets are the united masks of each category. An id is `IMAGE/NUMBER`, IMAGE the record's `id`.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from pixellm.data.coco import CocoSource
from pixellm.data.grammar import MAX_SLOTS, knowledge_exchanges
from pixellm.data.knowledge import related, surely_absent
from pixellm.data.records import AnnotatedImage
from pixellm.data.templates import all_question, category_question, several_question
from pixellm.eval.benchmarks import Benchmark, BenchmarkQuestion, BenchmarkTarget
from pixellm.imaging import masks

NAME = "coco"
KINDS = ("category", "several", "all", "knowledge", "no-target")
MIN_AREA = 0.001  # share of the image: smaller categories are not asked for together with others


def load_coco(annotations: Path, images: Path, limit: int | None = None) -> Benchmark:
    """Build the questions on the first `limit` annotated images, or on all.

    Args:
        annotations: COCO-format file in which every instance of every category is annotated.
        images: folder of its images.
        limit: number of images.

    Raises:
        ValueError: the annotations or an image can't be read, or there is nothing to ask.
    """
    source = CocoSource(annotations, images)
    questions = build_questions(source, limit)
    if not questions:
        raise ValueError(f"expected annotated images in {annotations}, got none. Check the file.")
    return Benchmark(NAME, annotations.name, "", tuple(questions), len(source.bad), source.categories)


def build_questions(source: CocoSource, limit: int | None = None) -> list[BenchmarkQuestion]:
    """Return the questions on the first `limit` images of a source; the same source gives the same ones."""
    count = len(source) if limit is None else min(limit, len(source))
    return [question for index in range(count) for question in _numbered(source, index)]


def make_question(
    source: CocoSource,
    index: int,
    image: AnnotatedImage,
    number: int,
    kind: str,
    text: str,
    categories: Sequence[str] = (),
    detail: str = "",
) -> BenchmarkQuestion:
    """Make question `number` on an image.

    Args:
        source: where the image comes from.
        index: its place there.
        image: `source[index]`, decoded.
        number: counts the questions on the image.
        kind: one of `KINDS`.
        text: the question.
        categories: those that it asks for; none where no mask is expected.
        detail: attribute that a question about knowledge asks for; without a target "any" or "related" (categories), or
            "knowledge".
    """
    row, united = source.rows[index], image.category_masks()
    targets = tuple(BenchmarkTarget("", category, masks.encode(united[category])) for category in categories)
    return BenchmarkQuestion(
        id=f"{row['id']}/{number}",
        image=source.images / row["file_name"],
        image_id=f"{row['id']}",
        hw=(image.image.height, image.image.width),
        text=text,
        expression=text,
        targets=targets,
        kind=kind,
        detail=detail,
        licence=row.get("license"),
    )


def _numbered(source: CocoSource, index: int) -> Iterator[BenchmarkQuestion]:
    image = source[index].decode()
    for number, (kind, text, categories, detail) in enumerate(_questions(source, index, image)):
        yield make_question(source, index, image, number, kind, text, categories, detail)


def _questions(source: CocoSource, index: int, image: AnnotatedImage) -> Iterator[tuple[str, str, Sequence[str], str]]:
    """Yield kind, text, categories and detail of each question."""
    rng = random.Random(f"{index}")
    instances = image.instances
    boxed = {name for name, _ in image.boxes}  # known by box alone: present, but without a whole mask
    present = {instance.category for instance in instances} | boxed
    single = {instance.category for instance in instances if source.merged or not instance.merged}
    yield from (("category", category_question(name), [name], "") for name in sorted(single - boxed))

    area = {name: float(mask.mean()) for name, mask in image.category_masks().items() if name not in boxed}
    large = sorted((name for name in area if area[name] >= MIN_AREA), key=lambda name: (-area[name], name))
    if len(large) >= 2:
        several = large[: rng.randint(2, min(4, len(large)))]
        yield "several", several_question(several), several, ""
    if not source.complete:  # neither "everything" nor an absent category can be judged
        return
    if large:
        yield "all", all_question(), large[:MAX_SLOTS], ""
    for detail, name in _absent(present, source.categories, rng):
        yield "no-target", category_question(name), (), detail
    if not boxed:
        exchanges = knowledge_exchanges(image)
        for exchange_kind, kind, detail in (("nothing", "no-target", "knowledge"), ("knowledge", "knowledge", "")):
            if keys := [key for key, exchange in exchanges.items() if exchange.kind == exchange_kind]:
                key = rng.choice(keys)
                categories = [target.category for target in exchanges[key].targets]
                yield kind, exchanges[key].question, categories, detail or key


def _absent(present: set[str], known: frozenset[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield two categories that are surely absent: any, and one that shares an attribute with a present one."""
    absent = surely_absent(present, known)
    if absent:
        name = rng.choice(absent)
        yield "any", name
        absent.remove(name)
    alike = frozenset().union(*(related(name) for name in present))
    likely = [name for name in absent if name in alike]
    if absent:
        yield ("related", rng.choice(likely)) if likely else ("any", rng.choice(absent))
