"""``xraygan evaluate``: measure a run again."""

from __future__ import annotations

from pathlib import Path

import click

from .common import checkpoint_option, print_metrics, quiet_option, run_argument, set_option


@click.command()
@run_argument
@checkpoint_option
@set_option
@quiet_option
def evaluate(directory: Path, which: str, overrides: tuple[str, ...], quiet: bool) -> None:
    """Measure a checkpoint of RUN on its test split.

    Rewrites evaluation.json, predictions.csv, bootstrap.csv and report.html. With --set the
    metrics and [evaluation] can be changed, for example metrics.fid.weights=PATH.
    """
    from ..display import Display
    from ..engine import finish, restore

    session, place, step = restore(directory, overrides, Display(quiet=quiet), which)
    with place.locked():
        finish(session, place, step)
    print_metrics(place.evaluation)
