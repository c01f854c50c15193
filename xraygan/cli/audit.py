"""``xraygan audit``: measure whether a run's generator copies its training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xraygan.utils.limits import MOST

from .options import (
    SEED_TYPE,
    BoundedInt,
    checkpoint_option,
    quiet_option,
    run_argument,
    set_option,
)

SCORES = {
    "relative": "distance to generated over distance to training images",
    "distance": "distance to generated images",
    "discriminator": "the discriminator's score",
    "control": "distance to training images alone, as a control",
}


@click.command()
@run_argument
@checkpoint_option
@set_option
@click.option(
    "--generated",
    "count",
    type=BoundedInt(2, MOST),
    default=512,
    show_default=True,
    help="How many images to generate.",
)
@click.option("--seed", type=SEED_TYPE, default=0, show_default=True)
@quiet_option
def audit(
    directory: Path, which: str, overrides: tuple[str, ...], count: int, seed: int, quiet: bool
) -> None:
    """Measure whether RUN's generator copies the images it was trained on.

    Compares generated images, and images of test patients, with the training images. Prints the
    verdict in the first line; writes all figures to audit.json and the closest pairs to audit.png.
    The exit code is 0 whatever the verdict.
    """
    from xraygan.audit.audit import audit as audit_run
    from xraygan.session.session import restore_session
    from xraygan.utils.progress import Display

    display = Display(quiet=quiet)
    session, run_dir, step = restore_session(directory, overrides, display, which, measure=False)
    with run_dir.locked():
        result = audit_run(session, run_dir, step, count, seed, display)
    for line in _summary(result):
        click.echo(line)
    click.echo(f"{run_dir.audit_picture} shows the closest pairs, {run_dir.audit} has every figure")


def _summary(result: dict[str, Any]) -> list[str]:
    """The lines to print of an ``audit.json``, the verdict first."""
    protocol = result["protocol"]
    lines = [
        result["says"],
        f"step {result['step']:,}; {protocol['training_images']:,} training images, "
        f"{protocol['held_out_images']:,} held out",
    ]
    for name, space in result["copies"].items():
        low, high = space["share"]["interval"]
        distance = space["relative_distance"]
        lines += [
            f"{name}: {space['share']['value']:.1%} flagged (95 % interval {low:.1%} to {high:.1%})"
            f", p {_p_value(space['p'])}",
            f"  nearest at {distance['generated']['q00']:.2f} of the distance to the next ones, "
            f"held-out images at {distance['held_out']['q00']:.2f}",
            f"  nearer to the training images than held-out ones are: AUC {_auc(space['nearer'])}",
        ]
    correlation = result["resemblance"]["correlation"]
    lines.append(
        "resemblance: the median correlation with the most similar training image is "
        f"{correlation['generated']['q50']:.2f}, of held-out images "
        f"{correlation['held_out']['q50']:.2f}"
    )
    membership = result["membership"]
    if membership["pairs"]:
        pairs = f"{membership['pairs']:,} training images and as many held-out images"
        lines.append(f"scores that separate {pairs}:")
        lines += [
            f"  {text}: AUC {_auc(membership[name])}, p {_p_value(membership[name]['p'])}"
            for name, text in SCORES.items()
            if name in membership
        ]
    return lines + [f"note: {note}" for note in result["notes"]]


def _auc(score: dict[str, Any]) -> str:
    low, high = score["interval"]
    return f"{score['auc']:.3f} ({low:.3f} to {high:.3f})"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
