"""The trackers of a run, kept from stopping it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from xraygan.errors import describe_error
from xraygan.parts.interfaces import Tracker
from xraygan.parts.part_config import PartConfig

_log = logging.getLogger(__name__)


class Trackers:
    """Passes a run's metrics and images to its trackers.

    A tracker that raises is dropped with a warning: a run of a week does not end because a curve
    cannot be drawn.

    Args:
        trackers: by the names that the recipe gives them.
        choices: their parts by the same names, for warnings to name.
    """

    def __init__(
        self, trackers: Mapping[str, Tracker], choices: Mapping[str, PartConfig] | None = None
    ) -> None:
        self._trackers = dict(trackers)
        self._choices = choices or {}

    def begin(self, step: int) -> None:
        self._call("begin", lambda tracker: tracker.begin(step))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._call("log", lambda tracker: tracker.log(step, dict(values)))

    def image(self, step: int, path: Path) -> None:
        self._call("image", lambda tracker: tracker.image(step, path))

    def close(self) -> None:
        self._call("close", lambda tracker: tracker.close())

    def _call(self, method: str, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except (Exception, SystemExit) as error:
                part = self._choices[name].part if name in self._choices else None
                origin = f" (the tracker {part.name!r} of {part.origin})" if part else ""
                reason = f"{method}() raised {describe_error(error)}"
                _log.warning("[trackers.%s]%s is no longer used: %s", name, origin, reason)
                del self._trackers[name]
