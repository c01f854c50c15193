"""Whole training steps as CUDA graphs: captured once, then replayed.

A step of a small network is thousands of kernels of a few microseconds each, and the processor
takes longer to launch them than a GPU to run them. A CUDA graph launches all of them at once. It
repeats the very same operations on the same memory, so whatever differs between two steps must lie
in tensors that are filled before: the batch, learning rates, the number of the step, and the seeds
of random numbers.
"""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from xraygan.errors import UserError, describe_error
from xraygan.graph.parameters import copies, copy_each
from xraygan.graph.streams import FixedStreams, NotedStreams, Streams

#: steps that are taken eagerly before one is captured: optimizers make their state in the first,
#: and libraries choose their kernels
WARM_UP = 3

_log = logging.getLogger(__name__)


class Taken(NamedTuple):
    """What one step computed.

    Attributes:
        values: tensors by name.
        bound: what of the step depends on its number in a way that a graph cannot repeat, each a
            clause.
    """

    values: dict[str, Tensor]
    bound: list[str]


#: a step: from its input tensors and its random numbers
Body = Callable[[Sequence[Tensor], Streams], Taken]


class Recording(Protocol):
    """Operations that can be repeated."""

    def replay(self) -> dict[str, Tensor]:
        """Repeat them; returns their results, which the next repetition overwrites."""


class GraphRecording:
    """The operations of a function as a CUDA graph."""

    def __init__(
        self, run: Callable[[], dict[str, Tensor]], streams: FixedStreams, pool: Any
    ) -> None:
        self.graph = torch.cuda.CUDAGraph()
        for generator in streams.generators:
            self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.values = run()

    def replay(self) -> dict[str, Tensor]:
        self.graph.replay()
        return self.values


class _Captured(NamedTuple):
    inputs: list[Tensor]
    streams: FixedStreams
    recording: Recording


class CapturedSteps:
    """Takes steps: the first ones eagerly, later ones as replays of a captured one.

    There is a graph for each kind of step. Kinds that cannot be captured stay eager, and the log
    says why.

    Args:
        device: of the steps.
        optimizers: those that steps use.
        record: makes the recording of a function, a CUDA graph by default.
    """

    def __init__(
        self,
        device: torch.device,
        optimizers: Sequence[torch.optim.Optimizer],
        record: Callable[[Callable[[], dict[str, Tensor]], FixedStreams], Recording] | None = None,
    ) -> None:
        self.device = device
        self.optimizers = optimizers
        self._pool = torch.cuda.graph_pool_handle() if record is None else None
        self._record = record or (lambda run, streams: GraphRecording(run, streams, self._pool))
        self._taken: dict[Hashable, int] = {}
        self._captured: dict[Hashable, _Captured | None] = {}  # None: stays eager

    def is_replayed(self, kind: Hashable) -> bool:
        """Whether the next step of a kind is a replay, which calls no Python code of its parts."""
        return self._captured.get(kind) is not None

    def take(
        self, kind: Hashable, inputs: Sequence[Tensor], seed: int, body: Body
    ) -> dict[str, Tensor]:
        """Take one step.

        Args:
            kind: steps of one kind differ in their inputs, seeds and rates alone.
            inputs: tensors on the device.
            seed: of the step's random numbers.
            body: the step. It must not keep the tensors that it is given.

        Returns:
            The step's values, which stay as they are.

        Raises:
            UserError: the step waits for nothing and yet cannot be captured.
        """
        if (captured := self._captured.get(kind)) is not None:
            copy_each(captured.inputs, inputs)
            captured.streams.begin(seed)
            values = captured.recording.replay()
            return dict(zip(values, copies(list(values.values())), strict=True))
        if kind in self._captured:
            return body(inputs, Streams(self.device, seed)).values
        noted = NotedStreams(self.device, seed)
        with _waits(self.device) as waits:
            values, bound = body(inputs, noted)
        self._taken[kind] = self._taken.get(kind, 0) + 1
        if self._taken[kind] >= WARM_UP:
            self._capture(kind, inputs, noted, body, [*dict.fromkeys(waits), *bound])
        return values

    def _capture(
        self, kind: Hashable, inputs: Sequence[Tensor], noted: NotedStreams, body: Body,
        reasons: list[str],
    ) -> None:  # fmt: skip
        if reasons:
            self._captured[kind] = None
            _log.warning(
                '[run] compile = "graphs": steps are not captured as a CUDA graph but taken one '
                "operation after the other, since %s",
                "; ".join(reasons),
            )
            return
        fixed = FixedStreams(self.device, noted.purposes())
        own = copies(inputs)
        fixed.begin(noted.seed)
        try:
            with _capturable(self.optimizers):
                recording = self._record(lambda: body(own, fixed).values, fixed)
        except RuntimeError as error:
            raise UserError(
                '[run] compile = "graphs": the step cannot be captured as a CUDA graph: '
                f'{describe_error(error)}. Set [run] compile = "off"'
            ) from error
        self._captured[kind] = _Captured(own, fixed, recording)


@contextmanager
def _capturable(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Within it Adam may be captured: it asks for a word, though its fused form needs nothing."""
    groups = [g for o in optimizers for g in o.param_groups if "capturable" in g]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


@contextmanager
def _waits(device: torch.device) -> Iterator[list[str]]:
    """Collects why the processor waits for a GPU within this context, each as a clause."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return

    def note(message: object, *_: object, **__: object) -> None:
        if "synchronizing" not in str(message):
            return
        for frame in reversed(traceback.extract_stack()):
            if not any(name in frame.filename for name in ("/torch/", "/warnings.py", __file__)):
                folder, file = Path(frame.filename).parts[-2:]
                found.append(f"{folder}/{file}, line {frame.lineno}, waits for the GPU")
                return

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)
