"""What is drawn by lot and then decides what happens: ids that people see, and the jitter of a backoff.

Everything else that is random (tokens, ids of attempts) decides nothing. The simulation puts a seeded source here.
"""

import random

source: random.Random = random.SystemRandom()


def letters(alphabet: str, count: int) -> str:
    return "".join(source.choice(alphabet) for _ in range(count))


def jitter() -> float:
    """From -1 to 1."""
    return source.uniform(-1, 1)
