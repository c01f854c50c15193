"""``xraygan audit``: does a run's generator copy its training images?"""

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

    Compares generated images, and images of test patients, with the training images. The first
    line is the verdict; audit.json holds every figure, audit.png the closest pairs. The exit code
    is 0 whatever the verdict.
    """
    from xraygan.audit.audit import audit as measure
    from xraygan.session.session import restore_session
    from xraygan.utils.progress import Display

    display = Display(quiet=quiet)
    session, place, step = restore_session(directory, overrides, display, which, measure=False)
    with place.locked():
        found = measure(session, place, step, count, seed, display)
    for line in _summary(found):
        click.echo(line)
    click.echo(f"{place.audit_picture} shows the closest pairs, {place.audit} has every figure")


def _summary(found: dict[str, Any]) -> list[str]:
    """What was found, the verdict first."""
    about = found["protocol"]
    lines = [
        found["says"],
        f"step {found['step']:,}; {about['training_images']:,} training images, "
        f"{about['held_out_images']:,} held out",
    ]
    for name, space in found["copies"].items():
        low, high = space["share"]["interval"]
        near = space["relative_distance"]
        lines += [
            f"{name}: {space['share']['value']:.1%} flagged (95 % interval {low:.1%} to {high:.1%})"
            f", p {_p(space['p'])}",
            f"  nearest at {near['generated']['q00']:.2f} of the distance to the next ones, "
            f"held-out images at {near['held_out']['q00']:.2f}",
            f"  nearer to the training images than held-out ones are: AUC {_auc(space['nearer'])}",
        ]
    alike = found["resemblance"]
    nearest = alike["correlation"]
    lines.append(
        "resemblance: the median correlation with the most similar training image is "
        f"{nearest['generated']['q50']:.2f}, of held-out images {nearest['held_out']['q50']:.2f}"
    )
    members = found["membership"]
    if members["pairs"]:
        lines.append(f"what tells {members['pairs']:,} training from as many held-out images:")
        lines += [
            f"  {text}: AUC {_auc(members[name])}, p {_p(members[name]['p'])}"
            for name, text in SCORES.items()
            if name in members
        ]
    return lines + [f"note: {note}" for note in found["notes"]]


def _auc(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['auc']:.3f} ({low:.3f} to {high:.3f})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
