"""What another number of steps makes of a run's phases and learning rates.

Both follow the run's progress, steps done over steps in all, so they stretch with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from xraygan.recipe.loading import Recipe
from xraygan.recipe.schema import Optimizer, Phase


def account(recipe: Recipe, networks: Iterable[str], was: int, now: int, done: int) -> list[str]:
    """What changes when a run of ``was`` steps is trained for ``now`` steps, in lines.

    Args:
        networks: those that are trained.
        done: steps that are done.
    """
    lines = [f"{now} steps in all instead of {was}; {done} are done"]
    lines += _phases(recipe.tables.schedule.phases, was, now, done)
    for name in networks:
        lines += _rate(name, recipe.network(name).words.optimizer, was, now, done)
    if len(lines) == 1:
        lines.append("phases and learning rates stay as they are")
    before, after = min(done / was, 1.0), done / now
    lines.append(
        f"scores and labelers that follow the run's progress see {after:.3g} at step {done} "
        f"instead of {before:.3g}"
    )
    return lines


def _phases(phases: list[Phase], was: int, now: int, done: int) -> Iterator[str]:
    if len(phases) == 1:
        return
    for number, phase in enumerate(phases[:-1], start=1):
        yield (
            f"phase {number} ({phase.ratio}) ends at step {_end(phase.until, now)} instead of "
            f"{_end(phase.until, was)}"
        )
    current = next((p for p in phases if done / now < p.until), phases[-1])
    yield f"step {done + 1} is in phase {phases.index(current) + 1} ({current.ratio})"


def _rate(name: str, words: Optimizer, was: int, now: int, done: int) -> Iterator[str]:
    if words.warmup:
        yield (
            f"learning rate of the {name}: rises until step {_end(words.warmup, now)} instead of "
            f"{_end(words.warmup, was)}"
        )
    if words.schedule == "cosine":
        yield (
            f"learning rate of the {name}: falls as a cosine to {words.floor * words.lr:g} at step "
            f"{now} instead of {was}"
        )
    before, after = (words.lr * words.factor(min(done / total, 1.0)) for total in (was, now))
    if before != after:
        yield f"learning rate of the {name}: {after:.3g} after step {done} instead of {before:.3g}"


def _end(share: float, total: int) -> int:
    """The first step that is past a share of the run."""
    return math.ceil(share * total)
