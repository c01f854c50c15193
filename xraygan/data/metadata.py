"""The metadata of an image (age, sex and view), as numbers that networks read.

In tables each is a number, NaN if it is unknown (:func:`metadata_columns`). A network reads two
numbers for each (:func:`encode`): the value, scaled to about [-1, 1] and 0 if it is unknown, and
whether it is known, 1 or 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xraygan.errors import UserError, did_you_mean

#: name -> the values that stand for 1 and for 0; None if it is a number itself
CATEGORIES: dict[str, tuple[str, str] | None] = {
    "age": None,
    "sex": ("M", "F"),
    "view": ("PA", "AP"),
}

#: name -> the number that is encoded as 0, and the difference that is encoded as 1
_SCALES = {"age": (50.0, 25.0), "sex": (0.5, 0.5), "view": (0.5, 0.5)}


def metadata_columns(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """``age`` in years, ``sex`` (1 male, 0 female) and ``view`` (1 PA, 0 AP) of a dataset's rows.

    Each ``(N,)`` float32, NaN where it is unknown.
    """
    return {
        name: (rows[name] if values is None else rows[name].map(_codes(values))).to_numpy(
            dtype=np.float32
        )
        for name, values in CATEGORIES.items()
    }


def encode(values: Mapping[str, Tensor], names: Sequence[str], count: int) -> Tensor:
    """The metadata of M names as networks read it, ``(N, 2 M)``: values and whether each is known.

    Of torch's default type, float32, as the networks are.

    Args:
        values: ``(N,)`` each, NaN where unknown; a name that is missing is unknown everywhere.
        count: N.
    """
    columns = []
    device = next(iter(values.values())).device if values else None
    unknown = torch.full((count,), math.nan, device=device)
    for name in names:
        centre, scale = _SCALES[name]
        column = values.get(name, unknown).to(unknown.dtype)
        known = (~column.isnan()).to(unknown.dtype)
        columns += [((column - centre) / scale).nan_to_num(0.0), known]
    return torch.stack(columns, dim=1) if columns else torch.empty(count, 0)


def parse_metadata(metadata: Mapping[str, object], names: Sequence[str]) -> Tensor:
    """Metadata that a user asks for, such as ``{"age": 60, "sex": "F"}``, encoded: ``(1, 2 M)``.

    Args:
        names: the M names that the run's networks read.

    Raises:
        UserError: the networks do not read a name, or a value is not one of its values.
    """
    values = {}
    for name, value in metadata.items():
        if name not in names:
            read = f"read {', '.join(names)}" if names else "read no metadata"
            raise UserError(f"metadata: {name!r}: the run's networks {read}")
        values[name] = torch.tensor([_number(name, value)])
    return encode(values, names, 1)


def _number(name: str, value: object) -> float:
    categories = CATEGORIES[name]
    if categories is not None:
        if value not in categories:
            raise UserError(f"metadata: {name}: {value!r}; {did_you_mean(str(value), categories)}")
        return _codes(categories)[str(value)]
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 150:
        raise UserError(f"metadata: {name}: expected years from 0 to 150, found {value!r}")
    return number


def _codes(categories: tuple[str, str]) -> dict[str, float]:
    one, zero = categories
    return {one: 1.0, zero: 0.0}
