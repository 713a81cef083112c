"""The clock: programs that take turns, and what is made of their times."""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax


@dataclasses.dataclass
class Program:
    """Something that is timed: `sample()` gives seconds by name."""

    sample: Callable[[], dict[str, float]]
    compile_seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call, until what it returns is there."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def per_step(call: Callable[[int], object], few: int, many: int) -> float:
    """Seconds of one step, free of what a call costs whatever its number of steps."""
    return (seconds(lambda: call(many)) - seconds(lambda: call(few))) / (many - few)


def shortest(call: Callable[[], object], repeats: int) -> float:
    """The least of some times, after one call that compiles: for limits and single passes."""
    seconds(call)
    return min(seconds(call) for _ in range(repeats))


def measure(made: list[Program], rounds: int) -> list[dict[str, float]]:
    """Seconds of each program, round by round, all programs in turn."""
    found = []
    for _ in range(rounds):
        found.append({})
        for program in made:
            found[-1] |= program.sample()
    return found


def summarise(rounds: list[dict[str, float]], baseline: str) -> dict[str, dict[str, float]]:
    """Median and range, and the median of the ratios to `baseline` within a round.

    A program need not be in all rounds; a round without the baseline takes its median.
    """
    usual = statistics.median(r[baseline] for r in rounds if baseline in r)
    out = {}
    for name in dict.fromkeys(n for r in rounds for n in r):
        both = [r for r in rounds if name in r]
        out[name] = {
            "median": statistics.median(r[name] for r in both),
            "smallest": min(r[name] for r in both),
            "largest": max(r[name] for r in both),
            "ratio": statistics.median(r[name] / r.get(baseline, usual) for r in both),
        }
    return out
