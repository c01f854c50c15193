"""What parts may answer: tensors by their shape, type and device, and figures.

Nothing here looks at a tensor's values, which would have a GPU waited for. What does not hold is a
:class:`xraygan.parts.plugin_errors.BadAnswer`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xraygan.errors import shown
from xraygan.utils.naming import label_fault, record_fault
from xraygan.utils.tensors import as_float32

from .evaluation import Measurement
from .plugin_errors import BadAnswer
from .task import Task

#: nodes of a term's graph that are looked at, at most
_NODES = 1_000_000


def floating(value: Any, shape: Sequence[int] | None = None) -> Tensor:
    """A tensor of floating point numbers, in float32 or better.

    Args:
        shape: what it must have; -1 stands for any length.
    """
    if not isinstance(value, Tensor):
        raise BadAnswer(f"returned {_kind(value)}; expected a tensor")
    if not value.is_floating_point():
        raise BadAnswer(f"returned {value.dtype}; expected floating point numbers")
    if shape is not None and not _fits(value, shape):
        raise BadAnswer(f"returned shape {tuple(value.shape)}; expected {_named(shape)}")
    return as_float32(value)


def scalar(value: Any, device: torch.device) -> Tensor:
    """The value of a term: one number, in float32 or better, on the step's device."""
    if not isinstance(value, Tensor):
        raise BadAnswer(f"returned {_kind(value)}; expected a tensor with one number")
    if value.dim():
        raise BadAnswer(f"returned shape {tuple(value.shape)}; expected a scalar (), as mean() is")
    if value.dtype not in (torch.float32, torch.float64):
        raise BadAnswer(f"returned {value.dtype}; expected float32 or float64")
    _expect_device(value, device)
    return value


def activations(found: Any, images: int, task: Task) -> dict[str, Tensor]:
    """What a classifier returns: its features ``(N, D)`` and logits ``(N, K)``, and maps."""
    named_tensors(found, images)
    for name, width in (("features", -1), ("logits", len(task.classes))):
        if name not in found:
            raise BadAnswer(f"returned {_listed(found)}; {name!r} is missing")
        if not _fits(found[name], (images, width)):
            given, wanted = tuple(found[name].shape), _named((images, width))
            raise BadAnswer(f"returned {name} of shape {given}; expected {wanted}")
    return found


def named_tensors(found: Any, images: int) -> dict[str, Tensor]:
    """Named feature maps, each with a row for each image."""
    if not isinstance(found, Mapping) or not found:
        what = _kind(found) if not isinstance(found, Mapping) else "no map"
        raise BadAnswer(f"returned {what}; expected tensors by name")
    for name, value in found.items():
        if not isinstance(name, str):
            raise BadAnswer(f"named a map {shown(name)}; expected text")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            held = str(value.dtype) if isinstance(value, Tensor) else _kind(value)
            raise BadAnswer(f"returned {held} for {name!r}; expected floating point numbers")
        if value.dim() < 2 or len(value) != images:
            given = tuple(value.shape)
            raise BadAnswer(f"returned {name!r} of shape {given}; expected {images} rows")
    return dict(found)


def labels(found: Any, images: int, task: Task, device: torch.device) -> tuple[Tensor, Tensor]:
    """A labeler's labels, ``(N,)`` int64 or ``(N, K)`` float, and its weights ``(N,)``."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise BadAnswer(f"returned {_kind(found)}; expected labels and weights, two tensors")
    wanted = (images,) if task.exclusive else (images, len(task.classes))
    for name, value, shape in (("labels", found[0], wanted), ("weights", found[1], (images,))):
        if not isinstance(value, Tensor):
            raise BadAnswer(f"returned {_kind(value)} for {name}; expected a tensor")
        if not _fits(value, shape):
            raise BadAnswer(f"returned {name} of shape {tuple(value.shape)}; expected {shape}")
        whole = name == "labels" and task.exclusive
        if not (value.dtype == torch.int64 if whole else value.is_floating_point()):
            expected = "int64" if whole else "floating point numbers"
            raise BadAnswer(f"returned {name} of {value.dtype}; expected {expected}")
        if value.requires_grad:
            raise BadAnswer(f"returned {name} with a gradient; detach them")
        _expect_device(value, device)
    return found[0], found[1]


def record(name: Any, value: Any, taken: Iterable[str]) -> Tensor:
    """What a part records of a step beside the terms: a number, under a name of its own."""
    if fault := record_fault(name) if isinstance(name, str) else label_fault(name):
        raise BadAnswer(f"recorded {shown(name)}: the name {fault}")
    if name in taken:
        raise BadAnswer(f"recorded {name!r}, which is a term's name; use another")
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        given = tuple(value.shape) if isinstance(value, Tensor) else _kind(value)
        raise BadAnswer(f"recorded {given} as {name!r}; expected a tensor with one number")
    return value.detach().reshape(())


def reaches(value: Tensor, leaves: Iterable[Tensor]) -> bool:
    """Whether a graph leads from a value to one of the leaves, so that they get a gradient."""
    wanted = {id(leaf) for leaf in leaves}
    waiting: list[Any] = [value.grad_fn]
    seen: set[Any] = {None}
    if id(value) in wanted:
        return True
    while waiting and len(seen) < _NODES:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in wanted:
            return True
        waiting += [before for before, _ in node.next_functions]
    return bool(waiting)


# -- figures ---------------------------------------------------------------------------------------


def measurements(found: Any, resamples: int) -> dict[str, Measurement]:
    """What a metric measured, each figure as JSON can hold it.

    Args:
        resamples: how many bootstrap resamples there are.
    """
    if not isinstance(found, Mapping):
        raise BadAnswer(f"returned {_kind(found)}; expected Measurements by name")
    checked = {}
    for name, measured in dict(found).items():
        if fault := label_fault(name):
            raise BadAnswer(f"measured {shown(name)}: the name {fault}")
        checked[name] = _measurement(name, measured, resamples)
    return checked


def _measurement(name: str, found: Any, resamples: int) -> Measurement:
    if not isinstance(found, Measurement):
        raise BadAnswer(f"returned {_kind(found)} for {name!r}; expected a xraygan.Measurement")
    if not isinstance(found.n, Integral) or found.n < 0:
        raise BadAnswer(f"says of {name!r} that n is {shown(found.n)}; expected a number of images")
    for word in ("note", "network"):
        if not isinstance(getattr(found, word), str):
            given = shown(getattr(found, word))
            raise BadAnswer(f"says of {name!r} that its {word} is {given}; expected text")
    if found.better not in ("higher", "lower"):
        given = shown(found.better)
        raise BadAnswer(f'says of {name!r} that {given} is better; expected "higher" or "lower"')
    value, note = _figure(name, found.value), found.note
    if value is None and found.value is not None:
        note = note or "it is no finite number"
    return replace(
        found,
        value=value,
        n=int(found.n),
        note=note,
        interval=_pair(name, "interval", found.interval),
        limits=_pair(name, "limits", found.limits),
        resamples=_resamples(name, found.resamples, resamples),
    )


def _figure(name: str, value: Any) -> Any:
    """A number, a nested list of them, or None; None also for what is not finite."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, list | tuple):
        return [_figure(name, part) for part in value]
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        hint = "; take its item()" if isinstance(value, Tensor | np.ndarray) else ""
        raise BadAnswer(f"measured {name!r} as {_kind(value)}; expected a number{hint}")
    return float(value) if math.isfinite(value) else None


def _pair(name: str, what: str, pair: Any) -> tuple[float, float] | None:
    if pair is None:
        return None
    fits = isinstance(pair, tuple | list) and len(pair) == 2
    if not fits or not all(isinstance(bound, Real) for bound in pair):
        raise BadAnswer(f"gave {name!r} the {what} {shown(pair)}; expected two numbers")
    low, high = (float(bound) for bound in pair)
    return (low, high) if what == "limits" or math.isfinite(low + high) else None


def _resamples(name: str, found: Any, count: int) -> np.ndarray | None:
    if found is None:
        return None
    if (
        not isinstance(found, np.ndarray)
        or found.shape != (count,)
        or found.dtype.kind not in "fiu"
    ):
        given = f"shape {found.shape}" if isinstance(found, np.ndarray) else _kind(found)
        raise BadAnswer(f"gave {name!r} resamples of {given}; expected {count} numbers in an array")
    return found.astype(np.float64)


# -- words -----------------------------------------------------------------------------------------


def _expect_device(value: Tensor, device: torch.device) -> None:
    if value.device.type != device.type:
        raise BadAnswer(f"returned a tensor on {value.device}; expected it on {device}")


def _fits(value: Tensor, shape: Sequence[int]) -> bool:
    return value.dim() == len(shape) and all(
        wanted in (-1, found) for found, wanted in zip(value.shape, shape, strict=True)
    )


def _named(shape: Sequence[int]) -> str:
    return "(" + ", ".join("any" if n == -1 else str(n) for n in shape) + ")"


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(found)[:8])) or "nothing"


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
