"""``xraygan audit``: measure whether a generator copies its training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xraygan.utils.limits import MOST

from .folders import folder_option, image_size_option, measures_folders, optional_run_argument
from .options import SEED_TYPE, BoundedInt, SafePath, checkpoint_option, quiet_option, set_option

SCORES = {
    "relative": "distance to generated over distance to training images",
    "distance": "distance to generated images",
    "discriminator": "the discriminator's score",
    "control": "distance to training images alone, as a control",
}


@click.command()
@optional_run_argument
@folder_option("--images", "Audit the generated images of a folder instead of a run.")
@folder_option("--training", "With --images: the images that their generator was trained on.")
@folder_option("--held-out", "With --images: real images that it was not trained on.")
@click.option(
    "--table",
    metavar="FILE.csv",
    type=SafePath(),
    help="With --images: labels and patients of the training and held-out images, with the columns "
    "of the dataset csv; by default each file is a patient of its own.",
)
@click.option(
    "--extractor",
    metavar="NAME",
    help="With --images: an extractor in whose features copies are searched too, not in pixels "
    "alone.",
)
@image_size_option
@click.option(
    "--out",
    metavar="FOLDER",
    type=SafePath(file_okay=False),
    help="With --images: a new folder for audit.json and audit.png.",
)
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
@click.pass_context
def audit(context: click.Context, /, **values: Any) -> None:
    """Measure whether RUN's generator, or any other, copies the images it was trained on.

    Compares generated images, and images of test patients, with the training images. Prints the
    verdict in the first line; writes all figures to audit.json and the closest pairs to audit.png.
    The exit code is 0 whatever the verdict.

    With --images, --training and --held-out it audits images of any generator, each kind in a
    folder of its own, and writes into the folder of --out.
    """
    folders = {f"--{n.replace('_', '-')}": values[n] for n in ("images", "training", "held_out")}
    own = ("--table", "--extractor", "--image-size", "--out")
    if measures_folders(context, folders, own, ("--checkpoint", "--generated")):
        _audit_folders(**{name: values[name] for name in _FOLDER_OPTIONS})
    else:
        _audit_run(**{name: values[name] for name in _RUN_OPTIONS})


_RUN_OPTIONS = ("directory", "which", "overrides", "count", "seed", "quiet")
_FOLDER_OPTIONS = (
    "images", "training", "held_out", "table", "extractor", "image_size", "out", "overrides",
    "seed", "quiet",
)  # fmt: skip


def _audit_run(
    directory: Path, which: str, overrides: tuple[str, ...], count: int, seed: int, quiet: bool
) -> None:
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


def _audit_folders(
    images: Path,
    training: Path,
    held_out: Path,
    table: Path | None,
    extractor: str | None,
    image_size: int,
    out: Path | None,
    overrides: tuple[str, ...],
    seed: int,
    quiet: bool,
) -> None:
    from xraygan.audit.folders import audit_folders
    from xraygan.session.folders import FolderOptions
    from xraygan.utils.atomic_files import as_json
    from xraygan.utils.output_folder import require_empty_folder, write_folder
    from xraygan.utils.progress import Display

    if out is not None:
        require_empty_folder(out)
    options = FolderOptions(image_size, extractor, overrides)
    result, picture = audit_folders(
        images, training, held_out, options, seed, Display(quiet=quiet), table
    )
    files = {"audit.png": picture, "audit.json": as_json(result).encode()}
    written = [] if out is None else write_folder(out, files)
    for line in _summary(result):
        click.echo(line)
    if written:
        click.echo(f"{written[0]} shows the closest pairs, {written[1]} has every figure")
    else:
        click.echo("--out FOLDER keeps every figure and a picture of the closest pairs: look at it "
                   "before you rely on a figure")  # fmt: skip


def _summary(result: dict[str, Any]) -> list[str]:
    """The lines to print of an ``audit.json``, the verdict first."""
    protocol = result["protocol"]
    step = f"step {result['step']:,}" if "step" in result else f"{protocol['generated']:,} images"
    lines = [
        result["says"],
        f"{step}; {protocol['training_images']:,} training images, "
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
