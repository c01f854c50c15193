"""The recipe's tables of optimizers and of the schedule of updates."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .fields import Fraction, Table


class Optimizer(Table):
    """``optimizer``: how a network learns."""

    name: Literal["adam", "adamw", "sgd"] = Field(
        "adam", description="optimizer: Adam, AdamW or SGD"
    )
    lr: Annotated[float, Field(gt=0, le=1e30)] = Field(0.0002, description="learning rate")
    betas: tuple[Fraction, Fraction] = Field(
        (0.9, 0.999), description="decay rates of Adam's moments"
    )
    momentum: Fraction = Field(0.0, description="momentum of SGD")
    weight_decay: Annotated[float, Field(ge=0, le=1e30)] = Field(
        0.0, description="weight decay: L2, added to the gradient; decoupled for adamw"
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="learning-rate schedule: constant, or cosine (half a cosine down to floor)",
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="warm-up: share of the run in which the learning rate rises linearly from 0",
    )
    floor: Fraction = Field(
        0.0, description="final learning rate of the cosine schedule, as a share of lr"
    )

    def factor(self, progress: float) -> float:
        """The learning rate at a progress in [0, 1), as a share of ``lr``."""
        if progress < self.warmup:
            return progress / self.warmup
        if self.schedule == "constant":
            return 1.0
        angle = math.pi * (progress - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(angle)) / 2


class Phase(Table):
    """One phase of ``[schedule]``."""

    ratio: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}:[1-9][0-9]{0,5}$")] = Field(
        "1:1", description="generator updates per discriminator update, as G:D"
    )
    until: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="end of the phase, as a share of the run"
    )
    waits: list[str] = Field([], description="networks that do not learn in this phase")

    def due(self, step: int) -> tuple[bool, bool]:
        """Whether the generator and the discriminator are updated in step 0, 1, 2, ...

        The more frequent of the two is updated in every step, the other spread evenly: with 3:1
        the discriminator in every third.
        """
        generator, discriminator = (int(part) for part in self.ratio.split(":"))
        most = max(generator, discriminator)
        return (
            (step + 1) * generator // most > step * generator // most,
            (step + 1) * discriminator // most > step * discriminator // most,
        )


class Schedule(Table):
    """``[schedule]``: how often the generator and the discriminator are updated."""

    phases: Annotated[list[Phase], Field(min_length=1)] = Field(
        [Phase()], description="phases of the run, in order; the last ends at 1.0"
    )

    @model_validator(mode="after")
    def _whole(self) -> Schedule:
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)) or ends[-1] != 1.0:
            raise ValueError("the phases' until must rise and the last must be 1.0")
        return self

    def phase(self, progress: float) -> Phase:
        """The phase at a progress in [0, 1)."""
        return next((p for p in self.phases if progress < p.until), self.phases[-1])
