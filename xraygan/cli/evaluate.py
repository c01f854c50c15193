"""``xraygan evaluate``: measure a run again, or folders of images."""

from __future__ import annotations

from pathlib import Path

import click

from xraygan.errors import UserError, shown

from .folders import (
    check_out_file,
    folder_option,
    image_size_option,
    measures_folders,
    optional_run_argument,
)
from .options import SafePath, checkpoint_option, quiet_option, set_option, utf8
from .printing import print_folders, print_metrics


@click.command()
@optional_run_argument
@folder_option("--images", "Measure the generated images of a folder instead of a run.")
@folder_option("--reference", "With --images: the folder of real images to compare with.")
@click.option(
    "--extractor",
    metavar="NAME",
    default="timm",
    show_default=True,
    help="With --images: the extractor in whose features images are compared.",
)
@image_size_option
@click.option(
    "--out",
    metavar="FILE.json",
    type=SafePath(dir_okay=False),
    help="With --images: a new file for the figures.",
)
@click.option(
    "--external",
    metavar="NAME",
    help="Measure RUN's classifier on the data set that --set data.plugin=... describes.",
)
@click.option(
    "--map",
    "mapped",
    multiple=True,
    callback=utf8,
    metavar="THEIRS=OURS",
    help="With --external: a class of the external data and the run's class; repeatable.",
)
@click.option(
    "--all-images", is_flag=True, help="With --external: measure all images, not its test images."
)
@checkpoint_option
@set_option
@quiet_option
@click.pass_context
def evaluate(
    context: click.Context,
    directory: Path,
    images: Path | None,
    reference: Path | None,
    extractor: str,
    image_size: int,
    out: Path | None,
    external: str | None,
    mapped: tuple[str, ...],
    all_images: bool,
    which: str,
    overrides: tuple[str, ...],
    quiet: bool,
) -> None:
    """Measure a checkpoint of RUN on its test images, or images of any generator.

    With RUN, rewrites evaluation.json, predictions.csv, bootstrap.csv and report.html. Use --set to
    change the metrics and [evaluation], for example metrics.fid.weights=PATH. With --set
    evaluation.split=val it measures the validation images and writes evaluation-val.json,
    predictions-val.csv and bootstrap-val.csv beside the files of the test images.

    With --external NAME, tests the classifier on another data set, which --set data.plugin=...,
    data.root=... and so on describe, and writes evaluation-NAME.json, predictions-NAME.csv and
    bootstrap-NAME.csv. Classes of the same name are the same; --map "Pneumonia=PNEUMONIA" says it
    of others. Images that the run was trained on are refused.

    With --images and --reference, compares the images of two folders: Frechet distance, KID,
    precision, recall, density, coverage and MS-SSIM, and beside them the same figures of one half
    of the reference images against the other half. Use --set for the options of the metrics and of
    the extractor, for example extractors.timm.weights=PATH.
    """
    folders = {"--images": images, "--reference": reference}
    own = ("--extractor", "--image-size", "--out")
    with_run = ("--checkpoint", "--external", "--map", "--all-images")
    if measures_folders(context, folders, own, with_run):
        assert images is not None and reference is not None
        _evaluate_folders(images, reference, extractor, image_size, out, overrides, quiet)
    elif external is not None:
        test = (external, parse_map(mapped), all_images)
        _evaluate_external(directory, which, overrides, quiet, *test)
    elif mapped or all_images:
        raise UserError(f"{'--map' if mapped else '--all-images'} needs --external NAME")
    else:
        _evaluate_run(directory, which, overrides, quiet)


def parse_map(pairs: tuple[str, ...]) -> dict[str, str]:
    """The run's class for each class of the external data, from ``"THEIRS=OURS"``.

    Raises:
        UserError: one is not of that form, or a class is mapped twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        theirs, _, ours = (part.strip() for part in pair.partition("="))
        if not theirs or not ours:
            raise UserError(f'--map {shown(pair)}: expected THEIRS=OURS, as "Pneumonia=PNEUMONIA"')
        if found.setdefault(theirs, ours) != ours:
            raise UserError(f"--map: {theirs!r} is mapped to both {found[theirs]!r} and {ours!r}")
    return found


def _evaluate_external(
    directory: Path,
    which: str,
    overrides: tuple[str, ...],
    quiet: bool,
    name: str,
    classes: dict[str, str],
    all_images: bool,
) -> None:
    from xraygan.rundir.directory import RunDirectory
    from xraygan.rundir.external_files import check_external_name
    from xraygan.session.external import open_external
    from xraygan.training.external_evaluation import evaluate_external
    from xraygan.utils.progress import Display

    check_external_name(name)
    display = Display(quiet=quiet)
    with RunDirectory.open(directory).locked():
        test = open_external(
            directory, overrides, display, which, classes=classes, all_images=all_images
        )
        evaluation = evaluate_external(test, name)
    print_metrics(evaluation)


def _evaluate_run(directory: Path, which: str, overrides: tuple[str, ...], quiet: bool) -> None:
    from xraygan.rundir.disk_errors import disk_errors
    from xraygan.session.session import restore_session
    from xraygan.training.final_evaluation import evaluate_run
    from xraygan.utils.progress import Display

    session, run_dir, step = restore_session(directory, overrides, Display(quiet=quiet), which)
    with run_dir.locked(), disk_errors(run_dir):
        evaluation = evaluate_run(session, run_dir, step)
    print_metrics(evaluation)


def _evaluate_folders(
    images: Path,
    reference: Path,
    extractor: str,
    image_size: int,
    out: Path | None,
    overrides: tuple[str, ...],
    quiet: bool,
) -> None:
    from xraygan.session.folders import FolderOptions, evaluate_folders
    from xraygan.utils.atomic_files import write_json
    from xraygan.utils.progress import Display

    check_out_file(out)
    options = FolderOptions(image_size, extractor, overrides)
    content = evaluate_folders(images, reference, options, Display(quiet=quiet))
    print_folders(content)
    if out is not None:
        write_json(out, content)
        click.echo(f"{out} has every figure")
