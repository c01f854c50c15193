"""A run's trackers: told of its progress, and never in its way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from .interfaces import Tracker
from .registry import describe_error

_log = logging.getLogger(__name__)


class Trackers:
    """The trackers of a run, by the names that the recipe gives them.

    One that raises is named in a warning and told nothing more: a run of a week does not end for
    the want of a curve.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)

    def begin(self, step: int) -> None:
        self._tell(lambda tracker: tracker.begin(step))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._tell(lambda tracker: tracker.log(step, values))

    def image(self, step: int, path: Path) -> None:
        self._tell(lambda tracker: tracker.image(step, path))

    def close(self) -> None:
        self._tell(lambda tracker: tracker.close())

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tell(tracker)
            except Exception as error:
                _log.warning(
                    "[trackers.%s] failed and is told nothing more: %s", name, describe_error(error)
                )
                del self._trackers[name]
