"""How is time taken on a machine that is never quiet?

Contenders take turns in one process, so that a slow moment meets all of them, and are compared within each turn. A
turn is a burst of calls: the first one finds what the contender before left behind, in caches and in the thread pools,
and is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

Call = Callable[[], Any]

BURST = 4
"""Calls of a burst, of which the first is dropped."""
_FAST, _SLOW = 7e-3, 100e-3
"""Seconds. A call that is not fast is timed once per turn; before a slow one nothing needs to be dropped."""
_PAUSE = 3e-3
"""Seconds before a burst, in which threads of the contender before stop spinning."""

MEMORY = 1_500_000_000
"""Bytes that all copies of all weights may take together."""
_TIMES_CACHE = 4


def in_turn(calls: Sequence[Call]) -> Call:
    """A call that makes the given ones in turn, one at a time."""
    following = cycle(calls)
    return lambda: next(following)()


def interleaved(contenders: Mapping[str, Sequence[Call]], rounds: int) -> dict[str, list[float]]:
    """Time all contenders in turns.

    Args:
        contenders: by name, one call per copy of the weight, made in turn.
        rounds: number of turns.

    Returns:
        by name, seconds of one call in each round.
    """
    bursts = {name: _burst(calls) for name, calls in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, burst in bursts.items():
            time.sleep(_PAUSE)
            times[name].append(burst())
    return times


def copies(nbytes: float, contenders: int, cache: int | None = None) -> int:
    """Copies of a weight that together do not fit the cache.

    They exceed it four times, or take an equal part of :data:`MEMORY`. At least one per call of a burst, so that no
    copy is read twice within a turn: between two reads of it lies what all contenders read in between.

    Args:
        nbytes: bytes of one copy.
        contenders: number of contenders.
        cache: bytes of the cache, by default this machine's last level.

    >>> copies(8 << 20, contenders=10, cache=32 << 20), copies(64 << 20, contenders=10, cache=32 << 20)
    (16, 4)
    """
    wanted = min(_TIMES_CACHE * (cache or last_level_cache()), MEMORY / max(contenders, 1))
    return max(BURST, -(-int(wanted) // max(int(nbytes), 1)))


def last_level_cache() -> int:
    """Bytes of the largest cache of this machine; 32 MiB where Linux does not say."""
    sizes = [file.read_text().strip() for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.rstrip("K")) * 1024 for size in sizes if size.endswith("K")), default=32 << 20)


def _burst(calls: Sequence[Call]) -> Callable[[], float]:
    """One turn of a contender: the median seconds of its calls. Makes all calls once before, which may compile."""
    for call in calls:
        call()
    call = in_turn(calls)
    seconds = _seconds(call)
    timed = BURST - 1 if seconds < _FAST else 1

    def burst() -> float:
        if seconds < _SLOW:
            call()
        return median(_seconds(call) for _ in range(timed))

    return burst


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
