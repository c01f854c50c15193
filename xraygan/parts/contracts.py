"""Checks of the values that parts return: shape, type and device of tensors, and measurements.

No check reads the values of a tensor, which would wait for the GPU. A value that fails is a
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

#: most nodes of a term's autograd graph that are visited
_NODES = 1_000_000


def floating(value: Any, shape: Sequence[int] | None = None) -> Tensor:
    """A tensor of floating point numbers, in at least float32.

    Args:
        shape: the expected shape; -1 stands for any length.
    """
    if not isinstance(value, Tensor):
        raise BadAnswer(f"returned {_kind(value)}; expected a tensor")
    if not value.is_floating_point():
        raise BadAnswer(f"returned {value.dtype}; expected floating point numbers")
    if shape is not None and not _fits(value, shape):
        raise BadAnswer(f"returned shape {tuple(value.shape)}; expected {_named(shape)}")
    return as_float32(value)


def scalar(value: Any, device: torch.device) -> Tensor:
    """The value of a term: a scalar in at least float32, on the step's device."""
    if not isinstance(value, Tensor):
        raise BadAnswer(f"returned {_kind(value)}; expected a tensor with one number")
    if value.dim():
        raise BadAnswer(f"returned shape {tuple(value.shape)}; expected a scalar (), as mean() is")
    if value.dtype not in (torch.float32, torch.float64):
        raise BadAnswer(f"returned {value.dtype}; expected float32 or float64")
    _expect_device(value, device)
    return value


def activations(result: Any, images: int, task: Task) -> dict[str, Tensor]:
    """The result of a classifier: features ``(N, D)``, logits ``(N, K)``, and feature maps."""
    named_tensors(result, images)
    for name, width in (("features", -1), ("logits", len(task.classes))):
        if name not in result:
            raise BadAnswer(f"returned {_listed(result)}; {name!r} is missing")
        if not _fits(result[name], (images, width)):
            shape, expected = tuple(result[name].shape), _named((images, width))
            raise BadAnswer(f"returned {name} of shape {shape}; expected {expected}")
    return result


def named_tensors(result: Any, images: int) -> dict[str, Tensor]:
    """Named feature maps, each with a row for each image."""
    if not isinstance(result, Mapping) or not result:
        description = _kind(result) if not isinstance(result, Mapping) else "no map"
        raise BadAnswer(f"returned {description}; expected tensors by name")
    for name, value in result.items():
        if not isinstance(name, str):
            raise BadAnswer(f"named a map {shown(name)}; expected text")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = str(value.dtype) if isinstance(value, Tensor) else _kind(value)
            raise BadAnswer(f"returned {kind} for {name!r}; expected floating point numbers")
        if value.dim() < 2 or len(value) != images:
            shape = tuple(value.shape)
            raise BadAnswer(f"returned {name!r} of shape {shape}; expected {images} rows")
    return dict(result)


def labels(result: Any, images: int, task: Task, device: torch.device) -> tuple[Tensor, Tensor]:
    """The result of a labeler: labels, ``(N,)`` int64 or ``(N, K)`` float, and weights ``(N,)``."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise BadAnswer(f"returned {_kind(result)}; expected labels and weights, two tensors")
    expected_shape = (images,) if task.exclusive else (images, len(task.classes))
    checks = (("labels", result[0], expected_shape), ("weights", result[1], (images,)))
    for name, value, shape in checks:
        if not isinstance(value, Tensor):
            raise BadAnswer(f"returned {_kind(value)} for {name}; expected a tensor")
        if not _fits(value, shape):
            raise BadAnswer(f"returned {name} of shape {tuple(value.shape)}; expected {shape}")
        indices = name == "labels" and task.exclusive
        if not (value.dtype == torch.int64 if indices else value.is_floating_point()):
            expected = "int64" if indices else "floating point numbers"
            raise BadAnswer(f"returned {name} of {value.dtype}; expected {expected}")
        if value.requires_grad:
            raise BadAnswer(f"returned {name} with a gradient; detach them")
        _expect_device(value, device)
    return result[0], result[1]


def record(name: Any, value: Any, terms: Iterable[str]) -> Tensor:
    """A value that a part records in a step besides the terms: a number with a name of its own."""
    if fault := record_fault(name) if isinstance(name, str) else label_fault(name):
        raise BadAnswer(f"recorded {shown(name)}: the name {fault}")
    if name in terms:
        raise BadAnswer(f"recorded {name!r}, which is a term's name; use another")
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        kind = tuple(value.shape) if isinstance(value, Tensor) else _kind(value)
        raise BadAnswer(f"recorded {kind} as {name!r}; expected a tensor with one number")
    return value.detach().reshape(())


def reaches(value: Tensor, leaves: Iterable[Tensor]) -> bool:
    """Whether a value depends on one of the leaves, so that the leaf gets a gradient from it.

    True also if the graph has more nodes than are visited.
    """
    # A depth-first walk through the autograd graph, from the value towards its leaves.
    targets = {id(leaf) for leaf in leaves}
    pending: list[Any] = [value.grad_fn]
    visited: set[Any] = {None}
    if id(value) in targets:
        return True
    while pending and len(visited) < _NODES:
        node = pending.pop()
        if node in visited:
            continue
        visited.add(node)
        if id(getattr(node, "variable", None)) in targets:
            return True
        pending += [function for function, _ in node.next_functions]
    return bool(pending)


# -- measurements ----------------------------------------------------------------------------------


def measurements(result: Any, resamples: int) -> dict[str, Measurement]:
    """The measurements of a metric, with values that JSON can hold.

    Args:
        resamples: the number of bootstrap resamples.
    """
    if not isinstance(result, Mapping):
        raise BadAnswer(f"returned {_kind(result)}; expected Measurements by name")
    checked = {}
    for name, measured in dict(result).items():
        if fault := label_fault(name):
            raise BadAnswer(f"measured {shown(name)}: the name {fault}")
        checked[name] = _measurement(name, measured, resamples)
    return checked


def _measurement(name: str, result: Any, resamples: int) -> Measurement:
    if not isinstance(result, Measurement):
        raise BadAnswer(f"returned {_kind(result)} for {name!r}; expected a xraygan.Measurement")
    if not isinstance(result.n, Integral) or result.n < 0:
        raise BadAnswer(f"gave {name!r} the n {shown(result.n)}; expected a number of images")
    for field in ("note", "network"):
        if not isinstance(getattr(result, field), str):
            text = shown(getattr(result, field))
            raise BadAnswer(f"gave {name!r} the {field} {text}; expected text")
    if result.better not in ("higher", "lower"):
        text = shown(result.better)
        raise BadAnswer(f'gave {name!r} better={text}; expected "higher" or "lower"')
    value, note = _value(name, result.value), result.note
    if value is None and result.value is not None:
        note = note or "it is not a finite number"
    return replace(
        result,
        value=value,
        n=int(result.n),
        note=note,
        interval=_pair(name, "interval", result.interval),
        limits=_pair(name, "limits", result.limits),
        resamples=_resamples(name, result.resamples, resamples),
    )


def _value(name: str, value: Any) -> Any:
    """A number, a nested list of numbers, or None; None also for a number that is not finite."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, list | tuple):
        return [_value(name, part) for part in value]
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        hint = "; take its item()" if isinstance(value, Tensor | np.ndarray) else ""
        raise BadAnswer(f"measured {name!r} as {_kind(value)}; expected a number{hint}")
    return float(value) if math.isfinite(value) else None


def _pair(name: str, field: str, pair: Any) -> tuple[float, float] | None:
    if pair is None:
        return None
    fits = isinstance(pair, tuple | list) and len(pair) == 2
    if not fits or not all(isinstance(bound, Real) for bound in pair):
        raise BadAnswer(f"gave {name!r} the {field} {shown(pair)}; expected two numbers")
    low, high = (float(bound) for bound in pair)
    return (low, high) if field == "limits" or math.isfinite(low + high) else None


def _resamples(name: str, values: Any, count: int) -> np.ndarray | None:
    if values is None:
        return None
    if (
        not isinstance(values, np.ndarray)
        or values.shape != (count,)
        or values.dtype.kind not in "fiu"
    ):
        kind = f"shape {values.shape}" if isinstance(values, np.ndarray) else _kind(values)
        raise BadAnswer(f"gave {name!r} resamples of {kind}; expected {count} numbers in an array")
    return values.astype(np.float64)


# -- helpers ---------------------------------------------------------------------------------------


def _expect_device(value: Tensor, device: torch.device) -> None:
    if value.device.type != device.type:
        raise BadAnswer(f"returned a tensor on {value.device}; expected it on {device}")


def _fits(value: Tensor, shape: Sequence[int]) -> bool:
    return value.dim() == len(shape) and all(
        expected in (-1, length) for length, expected in zip(value.shape, shape, strict=True)
    )


def _named(shape: Sequence[int]) -> str:
    return "(" + ", ".join("any" if n == -1 else str(n) for n in shape) + ")"


def _listed(result: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(result)[:8])) or "nothing"


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
