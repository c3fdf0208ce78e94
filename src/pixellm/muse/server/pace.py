"""A rate that is kept: so much a minute, evenly, first come, first served."""

import asyncio
import time
from collections.abc import Callable

SLICE = 0.25  # seconds: how soon a waiting request learns that earlier ones took less than was thought


class Pace:
    """Lets pass so much a minute.

    Args:
        per_minute: how much; None: anything.
        burst: seconds of a rest that may be made up for at once.
        clock: in seconds.
    """

    def __init__(
        self, per_minute: float | None, burst: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0  # of one
        self._burst, self._clock = burst, clock
        self._free = clock() - burst  # when all that has passed has had its time
        self._turn = asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Wait until so much may pass. More than a minute's worth passes, too: those that follow wait for it."""
        if not self._seconds:
            return
        async with self._turn:
            while (left := self._free - self._clock()) > 0:
                await asyncio.sleep(min(left, SLICE))
            self._free = max(self._free, self._clock() - self._burst) + amount * self._seconds

    def correct(self, difference: float) -> None:
        """What passed was so much more, or less where it is negative, than was taken for it."""
        self._free += difference * self._seconds
