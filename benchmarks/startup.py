"""How long the command line takes to answer, against a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from common import Report, benchmark, in_turn, median

BARE = "python -c pass"
COMMANDS = ("xraygan --help", "xraygan list-plugins", "xraygan list-plugins --json")


def runner(arguments: list[str]) -> Callable[[], None]:
    def call() -> None:
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)

    return call


@benchmark
def main(fast: bool) -> Report:
    """Seconds of commands that must answer at once."""
    script = Path(sys.executable).with_name("xraygan")
    xraygan = [str(script)] if script.exists() else [sys.executable, "-m", "xraygan"]
    candidates = {BARE: runner([sys.executable, "-c", "pass"])}
    candidates |= {c: runner([*xraygan, *c.split()[1:]]) for c in COMMANDS}
    figures = in_turn(candidates, 2 if fast else 11)
    report = Report("Start-up")
    for name, seconds in figures.items():
        base = None if name == BARE else median(figures[BARE])
        report.add(name, median(seconds), "s", base, "" if base is None else BARE)
    return report


if __name__ == "__main__":
    main()
