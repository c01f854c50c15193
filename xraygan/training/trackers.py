"""A run's trackers: told of its progress, and never in its way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from xraygan.errors import describe_error
from xraygan.parts.choice import Choice
from xraygan.parts.interfaces import Tracker

_log = logging.getLogger(__name__)


class Trackers:
    """The trackers of a run, by the names that the recipe gives them.

    Args:
        choices: their parts by the same names, for warnings to name.

    One that raises is named in a warning and told nothing more: a run of a week does not end for
    the want of a curve.
    """

    def __init__(
        self, trackers: Mapping[str, Tracker], choices: Mapping[str, Choice] | None = None
    ) -> None:
        self._trackers = dict(trackers)
        self._choices = choices or {}

    def begin(self, step: int) -> None:
        self._tell("begin", lambda tracker: tracker.begin(step))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._tell("log", lambda tracker: tracker.log(step, dict(values)))

    def image(self, step: int, path: Path) -> None:
        self._tell("image", lambda tracker: tracker.image(step, path))

    def close(self) -> None:
        self._tell("close", lambda tracker: tracker.close())

    def _tell(self, what: str, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tell(tracker)
            except (Exception, SystemExit) as error:
                part = self._choices[name].part if name in self._choices else None
                named = f" (the tracker {part.name!r} of {part.origin})" if part else ""
                said = f"{what}() raised {describe_error(error)}"
                _log.warning("[trackers.%s]%s is told nothing more: %s", name, named, said)
                del self._trackers[name]
