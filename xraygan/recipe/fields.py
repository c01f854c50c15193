"""The table that all tables of a recipe derive from, and the types of their values."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from xraygan.utils.limits import MOST_STEPS

Fraction = Annotated[float, Field(ge=0, le=1)]
#: a weight: any more is beyond what float32 can multiply
Factor = Annotated[float, Field(ge=-1e30, le=1e30)]
#: how often, or how many steps
Count = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Some = Annotated[int, Field(gt=0, le=MOST_STEPS)]
FolderName = Annotated[str, Field(pattern=r"^[^\x00]{1,4095}$")]


class Table(BaseModel):
    """A table that holds nothing but the core's words."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
