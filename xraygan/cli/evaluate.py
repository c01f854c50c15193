"""``xraygan evaluate``: measure a run again."""

from __future__ import annotations

from pathlib import Path

import click

from .options import checkpoint_option, quiet_option, run_argument, set_option
from .printing import print_metrics


@click.command()
@run_argument
@checkpoint_option
@set_option
@quiet_option
def evaluate(directory: Path, which: str, overrides: tuple[str, ...], quiet: bool) -> None:
    """Measure a checkpoint of RUN on its test images.

    Rewrites evaluation.json, predictions.csv, bootstrap.csv and report.html. Use --set to change
    the metrics and [evaluation], for example metrics.fid.weights=PATH. With --set
    evaluation.split=val it measures the validation images and writes evaluation-val.json,
    predictions-val.csv and bootstrap-val.csv beside the files of the test images.
    """
    from xraygan.rundir.disk_errors import disk_errors
    from xraygan.session.session import restore_session
    from xraygan.training.final_evaluation import evaluate_run
    from xraygan.utils.progress import Display

    session, run_dir, step = restore_session(directory, overrides, Display(quiet=quiet), which)
    with run_dir.locked(), disk_errors(run_dir):
        evaluation = evaluate_run(session, run_dir, step)
    print_metrics(evaluation)
