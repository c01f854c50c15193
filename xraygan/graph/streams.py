"""The random numbers of a training step: a stream for each purpose, from the step's seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from xraygan.utils.seeding import derive_seed, global_stream, own_generator, rng

Purpose = tuple[str | int, ...]


class Streams:
    """Each purpose of a step has random numbers of its own.

    Args:
        device: of the generators.
        seed: of the step.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.seed = seed

    def root(self) -> torch.Generator:
        """The generator of what is drawn for no purpose."""
        return torch.Generator(self.device).manual_seed(self.seed)

    def generator(self, *purpose: str | int) -> torch.Generator:
        """A generator that is at the beginning of a purpose's stream."""
        return rng(self.device, self.seed, *purpose)

    def dropout(self, *purpose: str | int) -> AbstractContextManager[None]:
        """A context in which PyTorch's own generators are at the beginning of another stream."""
        return global_stream(self.device, self.seed, "dropout", *purpose)


class NotedStreams(Streams):
    """Streams that note from which of them numbers were drawn, to make :class:`FixedStreams`."""

    def __init__(self, device: torch.device, seed: int) -> None:
        super().__init__(device, seed)
        self._noted: list[tuple[Purpose, torch.Generator | bool]] = []

    def generator(self, *purpose: str | int) -> torch.Generator:
        made = super().generator(*purpose)
        self._noted.append((purpose, made))
        return made

    @contextmanager
    def dropout(self, *purpose: str | int) -> Iterator[None]:
        place = len(self._noted)
        self._noted.append((("dropout", *purpose), False))
        with super().dropout(*purpose):
            own = own_generator(self.device)
            before = _position(own)
            yield
            self._noted[place] = (("dropout", *purpose), _position(own) != before)

    def purposes(self) -> list[tuple[Purpose, bool]]:
        """Every purpose in the order of its first use, and whether numbers were drawn for it."""
        found = []
        for purpose, used in self._noted:
            if isinstance(used, torch.Generator):
                fresh = rng(self.device, self.seed, *purpose)
                used = _position(used) != _position(fresh)
            found.append((purpose, used))
        return found


class FixedStreams(Streams):
    """The streams of a step that is captured once and replayed: generators that stay the same, and
    are seeded before each replay.

    Args:
        purposes: those of :meth:`NotedStreams.purposes`. A captured step asks for them in the same
            order; generators from which nothing is drawn are not registered with its graph, for
            each of these costs two launches in every replay.
    """

    def __init__(self, device: torch.device, purposes: Iterable[tuple[Purpose, bool]]) -> None:
        super().__init__(device, 0)
        # Neither a generator nor a state of one can be made while a graph is captured.
        self._root = torch.Generator(device)
        # The states of PyTorch's own generator, the current one last.
        self._states = (
            [own_generator(device).graphsafe_get_state()] if device.type == "cuda" else []
        )
        self._made = [(purpose, used, torch.Generator(device)) for purpose, used in purposes]
        self._next = 0

    @property
    def generators(self) -> list[torch.Generator]:
        """Those from which numbers are drawn."""
        return [made for _, used, made in self._made if used]

    def begin(self, seed: int) -> None:
        """Set every generator to the beginning of its stream in the step of that seed."""
        self.seed, self._next = seed, 0
        for purpose, used, made in self._made:
            if used:
                made.manual_seed(derive_seed(seed, *purpose))

    def root(self) -> torch.Generator:
        return self._root

    def generator(self, *purpose: str | int) -> torch.Generator:
        return self._take(purpose)[1]

    def dropout(self, *purpose: str | int) -> AbstractContextManager[None]:
        used, made = self._take(("dropout", *purpose))
        return self._drawing_from(made) if used else nullcontext()

    @contextmanager
    def _drawing_from(self, made: torch.Generator) -> Iterator[None]:
        """Let PyTorch's own generator draw the numbers of another within this context."""
        own = own_generator(self.device)
        if self.device.type != "cuda":
            before = own.get_state()
            own.set_state(made.get_state())
            try:
                yield
            finally:
                own.set_state(before)
            return
        self._states.append(made)
        own.graphsafe_set_state(made)
        try:
            yield
        finally:
            self._states.pop()
            own.graphsafe_set_state(self._states[-1])

    def _take(self, purpose: Purpose) -> tuple[bool, torch.Generator]:
        expected, used, made = self._made[self._next]
        if purpose != expected:
            raise RuntimeError(f"random numbers for {purpose}, where {expected} came before")
        self._next += 1
        return used, made


def _position(generator: torch.Generator) -> object:
    """Where a generator is in its stream; no GPU is waited for."""
    if generator.device.type == "cuda":
        return generator.get_offset()
    return generator.get_state().numpy().tobytes()
