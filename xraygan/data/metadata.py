"""What is known of a patient and a picture beside its findings, as numbers that networks read.

Age, sex and view are numbers with NaN for "unknown" (:func:`numbers`). A network is given two for
each (:func:`encode`): the value, about in [-1, 1] and 0 where it is unknown, and whether it is
known, 1 or 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xraygan.errors import UserError, did_you_mean

#: name -> the words that stand for 1 and for 0; None for a number of its own
WORDS: dict[str, tuple[str, str] | None] = {"age": None, "sex": ("M", "F"), "view": ("PA", "AP")}

#: name -> what becomes 0, and what one step from there is
_SCALES = {"age": (50.0, 25.0), "sex": (0.5, 0.5), "view": (0.5, 0.5)}


def numbers(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """``age`` in years, ``sex`` (1 male, 0 female) and ``view`` (1 PA, 0 AP) of a dataset's rows.

    Each ``(N,)`` float32, NaN where it is unknown.
    """
    return {
        name: (rows[name] if words is None else rows[name].map(_coded(words))).to_numpy(
            dtype=np.float32
        )
        for name, words in WORDS.items()
    }


def encode(values: Mapping[str, Tensor], names: Sequence[str], count: int) -> Tensor:
    """What networks are given: ``(N, 2 M)`` of M names, a value and whether it is known.

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
        found = values.get(name, unknown).to(unknown.dtype)
        columns += [((found - centre) / scale).nan_to_num(0.0), (~found.isnan()).to(unknown.dtype)]
    return torch.stack(columns, dim=1) if columns else torch.empty(count, 0)


def parse(given: Mapping[str, object], names: Sequence[str]) -> Tensor:
    """What a user asks for, ``{"age": 60, "sex": "F"}``, encoded: ``(1, 2 M)``.

    Raises:
        UserError: the run's networks are not told of it, or it has no such value.
    """
    values = {}
    for name, value in given.items():
        if name not in names:
            told = f"are told of {', '.join(names)}" if names else "are told of no metadata"
            raise UserError(f"metadata: {name!r}: the run's networks {told}")
        values[name] = torch.tensor([_number(name, value)])
    return encode(values, names, 1)


def _number(name: str, value: object) -> float:
    words = WORDS[name]
    if words is not None:
        if value not in words:
            raise UserError(f"metadata: {name}: {value!r}; {did_you_mean(str(value), words)}")
        return _coded(words)[str(value)]
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 150:
        raise UserError(f"metadata: {name}: expected years from 0 to 150, found {value!r}")
    return number


def _coded(words: tuple[str, str]) -> dict[str, float]:
    one, zero = words
    return {one: 1.0, zero: 0.0}
