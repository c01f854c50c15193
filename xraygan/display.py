"""What a long command shows: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 5.0  # between two plain lines


class Display:
    """Progress and messages on standard error; results go to standard output.

    Args:
        console: where to write; a terminal gets a live bar, anything else plain lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how far a task of ``total`` items is; yields ``advance(count)``."""
        with self.training(total, what) as update:
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                update(done, {})

            yield advance

    @contextmanager
    def training(
        self, total: int, what: str = "training", done: int = 0
    ) -> Iterator[Callable[[float, Mapping[str, float]], None]]:
        """Show how far a run is; yields ``update(done, values)``."""
        live = _bar if self.console.is_terminal else _lines
        with live(self.console, what, total, done) as update:
            yield update


@contextmanager
def _bar(
    console: Console, what: str, total: int, start: int
) -> Iterator[Callable[[float, Mapping[str, float]], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, completed=start, values="")

        def update(done: float, values: Mapping[str, float]) -> None:
            progress.update(task, completed=done)
            if values:
                progress.update(task, values=_show(values))

        yield update


@contextmanager
def _lines(
    console: Console, what: str, total: int, start: int
) -> Iterator[Callable[[float, Mapping[str, float]], None]]:
    began = last = time.monotonic()

    def update(done: float, values: Mapping[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < LINE_SECONDS:
            return
        last = now
        line = f"{what} {int(done)}/{total}  "
        if done > start:
            left = (now - began) / (done - start) * (total - done)
            line += f"{int(left) // 60}:{int(left) % 60:02d} left  "
        line += _show(values)
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
        pass  # a full disk: the run will say so in one message, not the log in a traceback


class _Shown(logging.Handler):
    display: Display

    def emit(self, record: logging.LogRecord) -> None:
        self.display.say(f"{record.levelname.lower()}: {record.getMessage()}")
