"""Generation over all images: nothing lost, nothing twice, and what stops it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from pixellm.muse.generation import Generation, GenerationResult
from pixellm.muse.journal import Journal, Reject
from pixellm.muse.quality.checks import QualityRules
from pixellm.muse.records import ImageAnnotations
from pixellm.muse.selection import MISSING, Candidate
from pixellm.utils.budget import BudgetError
from pixellm.utils.job_runner import MAX_FAILURES
from pixellm.utils.openai_client import RefusedError, UnreachableError
from tests.support.muse_cases import record


def chosen(number: int, reason: str | None = None) -> Candidate:
    image = replace(record(number).image, image_id=number)
    scene = None if reason else ImageAnnotations(image, record(number).targets)
    return Candidate(image, scene, reason)


def good(number: int):
    one = record(number)
    return replace(one, record_id=f"{number}/1", image=replace(one.image, image_id=number))


class Engine:
    """Gives one good record a scene; `errors` by image come once each."""

    def __init__(self, errors: dict[int, Exception] | None = None) -> None:
        self.errors, self.asked = dict(errors or {}), []
        self.in_flight = self.most = 0

    async def ask(self, image: ImageAnnotations) -> GenerationResult:
        number = image.image.image_id
        self.asked.append(number)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        if number in self.errors:
            raise self.errors.pop(number)
        return GenerationResult((good(number),))


def run(path: Path, engine: Engine, images: list[Candidate], in_flight: int = 4, seen=lambda _: None) -> Generation:
    with Journal(path, {}) as journal:
        generation = Generation(engine, journal, QualityRules(), in_flight, lambda _: seen(generation))
        asyncio.run(generation.run(images))
        return generation


def finished(path: Path) -> int:
    with Journal(path) as journal:
        return journal.totals()[0]


def records(path: Path) -> list[str]:
    with Journal(path) as journal:
        return [one.record_id for one in journal.records()]


def test_each_photograph_once(tmp_path) -> None:
    engine = Engine()
    images = [chosen(i, "fewer than 2 usable instances" if i % 5 == 0 else None) for i in range(1, 31)]
    found = run(tmp_path, engine, images)
    assert (finished(tmp_path), found.records, found.runner.stopped) == (30, 24, None)
    assert engine.most == 4
    assert sorted(engine.asked) == [i for i in range(1, 31) if i % 5]
    with Journal(tmp_path) as journal:
        assert journal.counts()["skipped"] == {"fewer than 2 usable instances": 6}
        assert journal.totals() == (30, 24)
    assert run(tmp_path, engine, images).records == 0
    assert len(engine.asked) == 24


def test_bad_records_are_rejected_with_the_reason(tmp_path) -> None:
    class Mixed(Engine):
        async def ask(self, image: ImageAnnotations) -> GenerationResult:
            one = good(image.image.image_id)
            bad = replace(one, record_id=f"{image.image.image_id}/2", question="What is there?")
            return GenerationResult((one, bad), (Reject(f"{image.image.image_id}/3", {"pair": 1}, "objects", "none"),))

    found = run(tmp_path, Mixed(), [chosen(1)])
    assert found.records == 1
    with Journal(tmp_path) as journal:
        assert journal.counts()["rejected"] == {"broad": 1, "objects": 1}


def test_what_fails_is_left_for_the_next_run(tmp_path) -> None:
    engine = Engine({2: ValueError("the photograph can't be read")})
    images = [chosen(1), chosen(2), chosen(3, MISSING), chosen(4)]
    found = run(tmp_path, engine, images)
    assert found.runner.failures == {"the photograph can't be read": 1, MISSING: 1}
    assert records(tmp_path) == ["1/1", "4/1"]
    assert run(tmp_path, engine, [chosen(2), chosen(3)]).records == 2
    assert records(tmp_path) == ["1/1", "2/1", "3/1", "4/1"]


def test_a_cap_ends_the_run_and_finishes_what_is_in_flight(tmp_path) -> None:
    found = run(tmp_path, Engine({5: BudgetError("the cap is reached")}), [chosen(i) for i in range(1, 31)])
    assert found.runner.stopped == "the cap is reached"
    assert 4 <= finished(tmp_path) < 30
    assert finished(tmp_path) == len(records(tmp_path))
    assert not found.runner.failures


def test_a_server_that_refuses_ends_the_run_at_once(tmp_path) -> None:
    with pytest.raises(RefusedError, match="no such key"):
        run(tmp_path, Engine({3: RefusedError("no such key")}), [chosen(i) for i in range(1, 31)])


def test_a_server_that_nobody_reaches_ends_the_run_early(tmp_path) -> None:
    found = run(tmp_path, Engine({3: UnreachableError("nobody there")}), [chosen(i) for i in range(1, 31)])
    assert (found.runner.stopped, found.runner.failures) == ("nobody there", {"nobody there": 1})
    assert finished(tmp_path) < 10


def test_images_whose_replies_are_all_rejected_are_counted(tmp_path) -> None:
    class Refusing(Engine):
        async def ask(self, image: ImageAnnotations) -> GenerationResult:
            return GenerationResult((), (Reject(f"{image.image.image_id}/1", {}, "refusal", "no"),))

    run(tmp_path, Refusing(), [chosen(1), chosen(2, "fewer than 2 usable instances"), chosen(3)])
    with Journal(tmp_path) as journal:
        wanted = {"fewer than 2 usable instances": 1, "no record passed the checks (refusal)": 2}
        assert journal.counts()["skipped"] == wanted


def test_many_failures_in_a_row_end_the_run(tmp_path) -> None:
    engine = Engine({i: ValueError("down") for i in range(1, 100)})
    found = run(tmp_path, engine, [chosen(i) for i in range(1, 100)])
    assert found.runner.stopped is not None
    assert "the last one: down" in found.runner.stopped
    assert MAX_FAILURES <= found.runner.failures.total() < MAX_FAILURES + 4


def test_stopped_by_hand(tmp_path) -> None:
    def seen(generation: Generation) -> None:
        if generation.records == 6:
            generation.runner.stop("interrupted")

    found = run(tmp_path, Engine(), [chosen(i) for i in range(1, 31)], seen=seen)
    assert found.runner.stopped == "interrupted"
    assert 6 <= finished(tmp_path) <= 9
    assert len(records(tmp_path)) == finished(tmp_path)
