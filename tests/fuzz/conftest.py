"""Property-based fuzzing of the parsers of outside bytes: briefly with all tests, for FUZZ_SECONDS with `make fuzz`.

A property is an ordinary hypothesis test in `test_<topic>.py`: it feeds hostile input to a parser and allows a value or
the parser's documented error, nothing else. Crashes that were found stay as `@example`s.

- Profile `ci`: 60 examples each, the same ones every time, so that a change is only stopped by what it caused.
- Profile `long`: new examples for an equal share of FUZZ_SECONDS each. The example that is running is kept in
  build/fuzz/, where it survives a crash of the process.
"""

import os
import time
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
PROFILE = "long" if SECONDS else "ci"
RUNNING = Path("build/fuzz")
EXAMPLES: Counter[str] = Counter()
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
FUZZED = pytest.StashKey[int]()

settings.register_profile("ci", max_examples=60, derandomize=True, deadline=None, suppress_health_check=SLOW)
# Seconds for one example: of input that is limited nothing takes as long, not even on a busy machine.
settings.register_profile("long", max_examples=100, deadline=timedelta(seconds=20), suppress_health_check=SLOW)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Import the modules of this folder under the profile: hypothesis binds it where `@given` stands."""
    before = settings.get_current_profile_name()
    if Path(__file__).parent in collector.path.parents:
        settings.load_profile(PROFILE)
    try:
        return (yield)
    finally:
        settings.load_profile(before)


def is_property(item: pytest.Item) -> bool:
    return Path(__file__).parent in item.path.parents and hasattr(getattr(item, "obj", None), "hypothesis")


def pytest_collection_finish(session):
    session.stash[FUZZED] = sum(map(is_property, session.items))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a property, and again until its share of the time is over."""
    if not is_property(pyfuncitem):
        return (yield)
    until = time.monotonic() + SECONDS / pyfuncitem.session.stash[FUZZED]
    names = pyfuncitem._fixtureinfo.argnames
    with counted(pyfuncitem):
        result = yield
        while time.monotonic() < until:
            pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    return result


@contextmanager
def counted(item):
    """Count the examples of a property and, in long runs, write each down before it is tried."""
    handle = item.obj.hypothesis
    inner = handle.inner_test
    RUNNING.mkdir(parents=True, exist_ok=True)
    note = RUNNING / f"{item.path.stem}-{item.name}.txt".replace("/", "_")

    def test(*args, **kwargs):
        EXAMPLES[item.nodeid] += 1
        if SECONDS:
            note.write_text(repr((args, kwargs)), encoding="utf-8", errors="backslashreplace")
        return inner(*args, **kwargs)

    handle.inner_test = test
    try:
        yield
    finally:
        handle.inner_test = inner


def pytest_terminal_summary(terminalreporter):
    if SECONDS:
        terminalreporter.section(f"fuzzing: {sum(EXAMPLES.values()):,} examples")
        for name, count in sorted(EXAMPLES.items()):
            terminalreporter.write_line(f"{count:>10,}  {name}")
