"""Describes how another number of steps changes a run's phases and learning rates.

Both are functions of the run's progress, the steps done divided by all steps, so they stretch with
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from xraygan.recipe.loading import Recipe
from xraygan.recipe.optimization import Optimizer, Phase


def describe_lengthening(
    recipe: Recipe, networks: Iterable[str], before: int, after: int, done: int
) -> list[str]:
    """Lines that say what changes when a run of ``before`` steps is trained for ``after`` steps.

    Args:
        networks: the names of the trained ones.
        done: steps that are done.
    """
    lines = [f"{after} steps in all instead of {before}; {done} are done"]
    lines += _describe_phases(recipe.tables.schedule.phases, before, after, done)
    for name in networks:
        optimizer = recipe.network(name).config.optimizer
        lines += _describe_learning_rate(name, optimizer, before, after, done)
    if len(lines) == 1:
        lines.append("phases and learning rates stay as they are")
    lines.append(
        f"scores and labelers that follow the run's progress see {done / after:.3g} at step "
        f"{done} instead of {min(done / before, 1.0):.3g}"
    )
    return lines


def _describe_phases(phases: list[Phase], before: int, after: int, done: int) -> Iterator[str]:
    if len(phases) == 1:
        return
    for number, phase in enumerate(phases[:-1], start=1):
        yield (
            f"phase {number} ({phase.ratio}) ends at step {_step_at(phase.until, after)} instead "
            f"of {_step_at(phase.until, before)}"
        )
    current = next((p for p in phases if done / after < p.until), phases[-1])
    yield f"step {done + 1} is in phase {phases.index(current) + 1} ({current.ratio})"


def _describe_learning_rate(
    name: str, config: Optimizer, before: int, after: int, done: int
) -> Iterator[str]:
    if config.warmup:
        yield (
            f"learning rate of the {name}: rises until step {_step_at(config.warmup, after)} "
            f"instead of {_step_at(config.warmup, before)}"
        )
    if config.schedule == "cosine":
        yield (
            f"learning rate of the {name}: falls as a cosine to {config.floor * config.lr:g} at "
            f"step {after} instead of {before}"
        )
    old, new = (config.lr * config.factor(min(done / total, 1.0)) for total in (before, after))
    if old != new:
        yield f"learning rate of the {name}: {new:.3g} after step {done} instead of {old:.3g}"


def _step_at(share: float, total: int) -> int:
    """The first step after a share of the run."""
    return math.ceil(share * total)
