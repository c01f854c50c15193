"""The progress of a long command: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_SECONDS = 5.0  # seconds between two plain lines


class Display:
    """Progress and messages on standard error; results go to standard output.

    Args:
        console: where to write; a terminal gets a live bar, other outputs get plain lines.
        quiet: write nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show the progress of a task of ``total`` items; yields ``advance(count)``."""
        with self.training(total, title) as update:
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                update(done, {})

            yield advance

    @contextmanager
    def training(self, total: int, title: str = "training", done: int = 0) -> Iterator[Update]:
        """Show the progress of a run; yields ``update(done, values, notes)``.

        ``values`` are numbers by name, ``notes`` short phrases: the phase, the newest sample.
        """
        live = _bar if self.console.is_terminal else _lines
        with live(self.console, title, total, done) as update:
            yield update


class Update(Protocol):
    """Shows how many steps are done, values by name, and notes."""

    def __call__(
        self, done: float, values: Mapping[str, float], notes: Sequence[str] = ()
    ) -> None: ...


class _Bar(Progress):
    """A bar with lines about the run below it."""

    below: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for line in self.below:
            yield Text(line, style="dim", overflow="ellipsis", no_wrap=True)


@contextmanager
def _bar(console: Console, title: str, total: int, start: int) -> Iterator[Update]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _Bar(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=start)

        def update(done: float, values: Mapping[str, float], notes: Sequence[str] = ()) -> None:
            progress.update(task, completed=done)
            if values or notes:
                progress.below = (*filter(None, [_show(values)]), *notes)

        yield update


@contextmanager
def _lines(console: Console, title: str, total: int, start: int) -> Iterator[Update]:
    began = last = time.monotonic()
    noted: set[str] = set()

    def update(done: float, values: Mapping[str, float], notes: Sequence[str] = ()) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < LINE_SECONDS:
            return
        last = now
        line = f"{title} {int(done)}/{total}  "
        if done > start:
            seconds = (now - began) / (done - start) * (total - done)
            line += f"{int(seconds) // 60}:{int(seconds) % 60:02d} left  "
        # Each note is shown once: a log that is read later need not repeat it.
        line += "  ".join(filter(None, [_show(values), *(n for n in notes if n not in noted)]))
        noted.update(notes)
        console.print(line.rstrip(), markup=False)

    yield update


def _show(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in values.items())


@contextmanager
def logging_to(path: Path, display: Display) -> Iterator[None]:
    """Send the toolkit's log to a file, and its warnings to the display too."""
    logger = logging.getLogger("xraygan")
    file = _File(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    shown = _Shown(logging.WARNING)
    shown.display = display
    level = logger.level
    logger.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [file, shown]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        logger.setLevel(level)
        file.close()


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        pass  # on a full disk the run raises one error; the log need not print a traceback


class _Shown(logging.Handler):
    display: Display

    def emit(self, record: logging.LogRecord) -> None:
        self.display.say(f"{record.levelname.lower()}: {record.getMessage()}")
