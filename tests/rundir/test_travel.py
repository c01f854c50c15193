"""Runs that travel: as archives, to disks without links, to machines with other threads."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
import torch
from conftest import DCGAN_TABLES
from rich.console import Console
from saved_run import xraygan

from xraygan import UserError
from xraygan.distributed.ranks import DistributedContext
from xraygan.recipe.loading import Recipe, load, load_tree
from xraygan.rundir import checkpoint
from xraygan.rundir.directory import RunDirectory
from xraygan.training import engine
from xraygan.training.engine import run
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display

GAN = (
    """
[run]
steps = 6
batch_size = 4
save_every = 2
keep = 1
log_every = 3
evaluate_every = 1
keep_best = "frechet/classifier"
[data]
plugin = "phantom"
images = 60
image_size = 32
classes = ["Edema", "Mass"]
validation = 0.2
"""
    + DCGAN_TABLES
    + """[classifier]
plugin = "resnet18"
[metrics.frechet]
[evaluation]
generated = 4
bootstrap = 0
"""
)
SILENT = Display(Console(quiet=True))


class Stopped(Exception):
    """A run ended in the middle."""


def stop_at(patch: pytest.MonkeyPatch, last: int) -> None:
    take_step = Trainer.step

    def step(self: Trainer, number: int) -> dict:
        if number == last:
            raise Stopped
        return take_step(self, number)

    patch.setattr(Trainer, "step", step)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def state(out: Path) -> tuple[dict, list, str]:
    """What equal runs share: the last checkpoint's hashes, logged values, and the best's name."""
    found = checkpoint.latest(out / "checkpoints")
    assert found is not None
    lines = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    logged = [(x["step"], x.get("terms"), x.get("evaluation")) for x in lines]
    return found.manifest.files, logged, checkpoint.find(out / "checkpoints", "best").directory.name


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "gan.toml"
    path.write_text(GAN)
    return load(path)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(recipe, out, display=SILENT)
    return out


@pytest.fixture(scope="module")
def stopped(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after its checkpoint of step 4."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 5)
        run(recipe, out, display=SILENT)
    return out


# -- what becomes of the pointers ------------------------------------------------------------------


def as_links(folder: Path) -> None:
    """What former versions wrote."""
    for name in ("latest", "best"):
        target = (folder / name).read_text().strip()
        (folder / name).unlink()
        (folder / name).symlink_to(target)


def as_copies(folder: Path) -> None:
    """What cp -rL and disks without links make of that."""
    for name in ("latest", "best"):
        target = (folder / name).read_text().strip()
        (folder / name).unlink()
        shutil.copytree(folder / target, folder / name)


def as_the_only_copies(folder: Path) -> None:
    """The same, where the folders that the links named did not come along."""
    targets = {folder / (folder / name).read_text().strip() for name in ("latest", "best")}
    as_copies(folder)
    for target in targets:
        shutil.rmtree(target)


def as_empty_folders(folder: Path) -> None:
    """What Python's zip archives make of links to folders."""
    for name in ("latest", "best"):
        (folder / name).unlink()
        (folder / name).mkdir()


def as_texts(folder: Path) -> None:
    """What unzip makes of links on a file system without them."""
    for name in ("latest", "best"):
        (folder / name).write_text((folder / name).read_text().strip())


def as_broken_links(folder: Path) -> None:
    for name in ("latest", "best"):
        (folder / name).unlink()
        (folder / name).symlink_to("step-00099999")
    (folder / ".latest.building").symlink_to("step-00000001")  # and killed while it made one


def as_nothing(folder: Path) -> None:
    for name in ("latest", "best"):
        (folder / name).unlink()


def as_noise(folder: Path) -> None:
    for name in ("latest", "best"):
        (folder / name).write_bytes(b"\xff\x00" * 3000)


CHANGES: tuple[Callable[[Path], None], ...] = (
    as_links, as_copies, as_empty_folders, as_texts, as_broken_links, as_nothing, as_noise,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_resumes_to_the_same_bits_whatever_became_of_its_pointers(
    change: Callable[[Path], None], stopped: Path, whole: Path, recipe: Recipe, tmp_path: Path
) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    best = checkpoint.find(stopped / "checkpoints", "best").step
    change(out / "checkpoints")
    assert checkpoint.find(out / "checkpoints", "best").step == best
    assert checkpoint.find(out / "checkpoints", "latest").step == 4
    run(recipe, out, resume=True, display=SILENT)
    assert state(out) == state(whole)
    assert names(out / "checkpoints") == names(whole / "checkpoints")
    for name in ("latest", "best"):
        pointer = out / "checkpoints" / name
        assert pointer.is_file() and not pointer.is_symlink()
        assert pointer.read_bytes() == (whole / "checkpoints" / name).read_bytes()


def test_checkpoints_that_only_copied_pointers_hold_are_not_lost(
    stopped: Path, whole: Path, recipe: Recipe, tmp_path: Path
) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    as_the_only_copies(out / "checkpoints")
    run(recipe, out, resume=True, display=SILENT)
    assert "at step 4 of 6" in (out / "run.log").read_text()
    assert state(out) == state(whole)
    assert names(out / "checkpoints") == names(whole / "checkpoints")


def test_a_copied_pointer_replaces_a_damaged_checkpoint(
    stopped: Path, whole: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """The folder that an old link became is whole, and the one that it named is not."""
    out = shutil.copytree(stopped, tmp_path / "run")
    as_copies(out / "checkpoints")
    damaged = out / "checkpoints" / "step-00000004" / "generator.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    run(recipe, out, resume=True, display=SILENT)
    assert "at step 4 of 6" in (out / "run.log").read_text()
    assert state(out) == state(whole)


@pytest.mark.parametrize("refused", ["recipe", "data"])
def test_a_refused_run_is_left_as_it_was_copied(
    refused: str, stopped: Path, recipe: Recipe, tmp_path: Path
) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    as_copies(out / "checkpoints")
    if refused == "recipe":
        recipe = recipe.changed("run.seed=1")
    else:
        path = out / "environment.json"
        content = json.loads(path.read_text())
        content["dataset"]["fingerprint"] = "of other images"
        path.write_text(json.dumps(content))
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    with pytest.raises(UserError, match=r"run\.seed|not those that the run started with"):
        run(recipe, out, resume=True, display=SILENT)
    assert {
        p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"
    } == before


def test_a_run_that_chose_its_best_by_test_images_can_go_on_without(
    stopped: Path, whole: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """As former versions did: it could not be resumed with ``keep_best``, nor without."""
    out = shutil.copytree(stopped, tmp_path / "run")
    best = checkpoint.find(out / "checkpoints", "best").step
    with pytest.raises(UserError, match=r"run\.keep_best: frechet/classifier there, auc/mean now"):
        run(recipe.changed("run.keep_best=auc/mean"), out, resume=True, display=SILENT)
    tree = tomllib.loads(tomli_w.dumps(recipe.resolved()))
    del tree["run"]["keep_best"]
    run(load_tree(tree, tmp_path), out, resume=True, display=SILENT)
    assert checkpoint.find(out / "checkpoints", "best").step == best
    assert not [line for line in RunDirectory(out).read_metrics()
                if line["step"] > 4 and line.get("best")]  # fmt: skip
    found, kept = (checkpoint.latest(p / "checkpoints") for p in (out, whole))
    assert found is not None and kept is not None and found.manifest.files == kept.manifest.files


def test_a_zipped_run_resumes_elsewhere_to_the_same_bits(
    stopped: Path, whole: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """An archive without its empty folders, modes and times, as object stores keep files."""
    archive = tmp_path / "run.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(stopped.rglob("*")):
            if path.is_file():
                packed.writestr(str(path.relative_to(stopped)), path.read_bytes())
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "elsewhere" / "run")
    run(recipe, tmp_path / "elsewhere" / "run", resume=True, display=SILENT)
    assert state(tmp_path / "elsewhere" / "run") == state(whole)


def test_empty_folders_that_an_archive_dropped_are_made_anew(
    stopped: Path, recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(stopped / "recipe.toml", out)
    run(recipe, out, resume=True, display=SILENT)
    assert checkpoint.latest(out / "checkpoints") is not None


def test_a_run_trains_where_no_links_can_be_made(
    whole: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("links are not supported")

    for name in ("symlink", "link"):
        monkeypatch.setattr(os, name, refuse)
    run(recipe, tmp_path / "run", display=SILENT)
    assert state(tmp_path / "run") == state(whole)


def test_a_run_trains_where_folders_cannot_be_synced(
    whole: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def files_alone(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", files_alone)
    run(recipe, tmp_path / "run", display=SILENT)
    assert state(tmp_path / "run") == state(whole)


def test_a_pointer_that_cannot_be_written_loses_nothing(
    whole: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on, warns, and keeps its best checkpoint by its log."""

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint, "write_atomically", refuse)
    run(recipe, tmp_path / "run", display=SILENT)
    assert "WARNING" in (tmp_path / "run" / "run.log").read_text()
    assert state(tmp_path / "run") == state(whole)
    kept = names(tmp_path / "run" / "checkpoints")
    assert kept == names(whole / "checkpoints") - {"latest", "best"}


@pytest.mark.parametrize(
    "text",
    ["../../outside/step-00000004", "/tmp/step-00000004", "step-00000004\nstep-00000002", "a" * 999,
     "step-٠٠٠٠٠٠٠٤"],
)  # fmt: skip
def test_a_pointer_leads_to_no_other_folder(text: str, stopped: Path, tmp_path: Path) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    shutil.copytree(stopped / "checkpoints" / "step-00000004", tmp_path / "outside/step-00000004")
    (out / "metrics.jsonl").unlink()
    for link in (False, True):
        (out / "checkpoints" / "best").unlink()
        if link:
            shutil.rmtree(out / "checkpoints" / "step-00000004")
            (out / "checkpoints" / "best").symlink_to(tmp_path / "outside/step-00000004")
        else:
            (out / "checkpoints" / "best").write_text(text)
        with pytest.raises(UserError, match=r"no checkpoint 'best'"):
            checkpoint.find(out / "checkpoints", "best")


def test_best_is_not_another_checkpoint(stopped: Path, tmp_path: Path) -> None:
    """Without pointer and log there is no telling which is the best, and none is given out."""
    out = shutil.copytree(stopped, tmp_path / "run")
    (out / "checkpoints" / "best").unlink()
    (out / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"no checkpoint 'best'; there are the steps 4"):
        checkpoint.find(out / "checkpoints", "best")


def test_a_width_that_does_not_fit_is_one_message(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--count", 1, "--out", tmp_path / "made", "--set", "generator.width=8")
    said = xraygan(capsys, "generate", stopped, *words, code=2)
    assert "generator.width: 4 there, 8 now" in said and len(said.splitlines()) == 3


# -- threads ---------------------------------------------------------------------------------------


def test_the_recipe_fixes_the_number_of_threads(
    tmp_path: Path, recipe: Recipe, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process with other threads then gives the same bits; without the key, it need not."""
    before = torch.get_num_threads()
    fixed = [f"run.threads={before}"]
    torch.set_num_threads(before + 2)
    try:
        run(load(recipe.source, fixed), tmp_path / "fixed", display=SILENT)
        assert torch.get_num_threads() == before + 2
        words = ("--count", 1, "--out", tmp_path / "made")
        xraygan(capsys, "generate", tmp_path / "fixed", *words)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)
    assert state(tmp_path / "fixed") == state(whole)
    known = json.loads((tmp_path / "fixed" / "environment.json").read_text())
    assert known["threads"] == before
    assert known["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert known["interop_threads"] == torch.get_num_interop_threads()
    assert known["thread_variables"].get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")


def test_going_on_with_other_threads_is_said_before_it_is_done(
    stopped: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    for number, out in enumerate((tmp_path / "same", tmp_path / "other")):
        shutil.copytree(stopped, out)
        said = io.StringIO()
        torch.set_num_threads(before + number)
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            stop_at(patch, 4)
            run(recipe, out, resume=True, display=Display(Console(file=said, width=500)))
        torch.set_num_threads(before)
        warning = f"threads: {before} there, {before + 1} now"
        for text in (said.getvalue(), (out / "run.log").read_text()):
            assert (warning in text) == bool(number), text


def test_ranks_have_the_recipes_threads(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rank but the first takes them too."""
    seen = []
    monkeypatch.setattr(Trainer, "run", lambda self: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    engine._run_other_rank(
        load(recipe.source, [f"run.threads={before + 1}"]),
        RunDirectory(tmp_path),
        DistributedContext(),
    )
    assert seen == [before + 1] and torch.get_num_threads() == before
