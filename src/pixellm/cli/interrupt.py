"""Ctrl-C: the first one lets what is in flight be finished, the second one ends everything."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pixellm.cli.common import err_console

INTERRUPTED = "interrupted"
FINISHING = "finishing what is in flight (Ctrl-C again drops it)"


@contextmanager
def interrupting(stop: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop`."""

    def interrupted(*_: object) -> None:
        stop(INTERRUPTED)
        err_console.print(FINISHING)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
