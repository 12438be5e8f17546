"""Rows of figures that end in `ratio N`."""

import statistics
import time
from collections.abc import Callable


def row(name: str, *figures: str, ratio: float, of: str = "") -> None:
    """One line. `of` says what the ratio is to what."""
    print(f"{name:44} {'  '.join(figures)}  {of + ' ' if of else ''}ratio {ratio:.2f}", flush=True)


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def median_of(work: Callable[[], object], times: int) -> float:
    """The median time of one call, in seconds, after one that warms up."""
    work()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
