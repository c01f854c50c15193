"""Runs that are taken up again: what may change, what may not, and what is kept of each change."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from conftest import gan
from own_data import SILENT, contents, csv, edit, environment, own_data
from PIL import Image
from rich.console import Console
from xraygan_export.writing import write as write_export

from xraygan import UserError
from xraygan.recipe import schema
from xraygan.recipe.loading import Recipe, load, load_tree
from xraygan.report.descriptions import protocol
from xraygan.rundir import checkpoint
from xraygan.rundir.completion import lacking
from xraygan.rundir.conditions import recorded_task
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.provenance import RESUMABLE, trained_on
from xraygan.rundir.reader import RunFiles
from xraygan.session.session import restore_session
from xraygan.training.engine import run
from xraygan.training.final_evaluation import evaluate_run
from xraygan.training.trainer import Trainer
from xraygan.utils.nested import flatten_tables
from xraygan.utils.progress import Display

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Nothing is saved on the way out."""


def hashes(place: Path) -> dict[str, str]:
    found = checkpoint.latest(place / "checkpoints")
    assert found is not None
    return found.manifest.files


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe, Path], None]:
    """Runs a recipe and kills it in its sixth step, two after its last checkpoint."""
    take_step = Trainer.step

    def dying(self: Trainer, step: int) -> dict[str, Any]:
        if step == 5:
            raise Killed
        return take_step(self, step)

    def train(recipe: Recipe, place: Path) -> None:
        monkeypatch.setattr(Trainer, "step", dying)
        with pytest.raises(Killed):
            run(recipe, place, display=SILENT)
        monkeypatch.setattr(Trainer, "step", take_step)

    return train


# -- what may change -------------------------------------------------------------------------------


def test_what_does_not_decide_the_bits_may_change(
    tmp_path: Path, cut: Callable[[Recipe, Path], None]
) -> None:
    """Intervals, metrics, trackers, the folder of the images: the weights are the uninterrupted
    run's, and the run says what changed."""
    root = own_data(tmp_path / "data")
    run(csv(root), tmp_path / "whole", display=SILENT)
    cut(csv(root), tmp_path / "cut")
    before = (tmp_path / "cut/recipe.toml").read_text()
    began = environment(tmp_path / "cut")
    root.rename(tmp_path / "elsewhere")
    other = csv(tmp_path / "elsewhere").changed(
        "run.log_every=3", "run.save_every=5", "run.keep=1", "run.sample_every=4", "run.name=other",
        "run.device=cpu", "run.on_nonfinite=skip", "metrics.ms_ssim={}", "trackers.csv={}",
        "evaluation.generated=6", f"data.cache={tmp_path / 'cache'}", "data.on_bad_image=skip",
    )  # fmt: skip
    place = run(other, tmp_path / "cut", resume=True, display=SILENT).path
    assert hashes(place) == hashes(tmp_path / "whole")
    assert json.loads((place / "evaluation.json").read_text())["metrics"]
    now = environment(place)
    assert now["started"] == began["started"] and now["dataset"] == began["dataset"]
    [entry] = now["resumed"]
    assert entry["step"] == 4
    assert entry["changed"]["run.log_every"] == {"was": 1, "now": 3}
    assert entry["changed"]["data.root"] == {"was": str(root), "now": str(tmp_path / "elsewhere")}
    assert entry["changed"]["trackers.csv.plugin"] == {"was": None, "now": "csv"}
    # recipe.toml is what is in force, and the record has every key that it was changed in.
    was, kept = (flatten_tables(load_tree(tomllib.loads(text), Path()).resolved())
                 for text in (before, (place / "recipe.toml").read_text()))  # fmt: skip
    assert kept == flatten_tables(other.resolved())
    differing = {key for key in was | kept if was.get(key) != kept.get(key)}
    assert differing == {key for key in entry["changed"] if "." in key}


def test_a_run_of_an_older_version_lacks_keys_that_have_defaults(tmp_path: Path) -> None:
    recipe = gan()
    place = run(recipe, tmp_path / "run", display=SILENT).path
    text = (place / "recipe.toml").read_text()
    for line in ("compile = ", "warmup = ", "dropout = "):
        text = re.sub(rf"^{line}.*\n", "", text, flags=re.M)
    (place / "recipe.toml").write_text(text)
    (place / "evaluation.json").unlink()
    run(recipe, place, resume=True, display=SILENT)
    assert (place / "evaluation.json").exists()


def test_another_device_or_version_is_recorded_and_said(tmp_path: Path) -> None:
    place = run(gan(), tmp_path / "run", display=SILENT).path
    found = environment(place)
    (place / "environment.json").write_text(json.dumps(found | {"torch": "0.9", "threads": 99}))
    (place / "evaluation.json").unlink()
    run(gan(), place, resume=True, display=SILENT)
    [entry] = environment(place)["resumed"]
    assert entry["changed"]["torch"] == {"was": "0.9", "now": found["torch"]}
    assert entry["changed"]["threads"]["was"] == 99
    assert "torch: 0.9 there" in (place / "run.log").read_text()


# -- what may not ----------------------------------------------------------------------------------

DECIDING = [
    "run.seed=1", "run.batch_size=4", "run.accumulate=2", "run.precision=fp32",
    "run.compile=default", "run.steps=9", "data.image_size=64", "data.classes=['Mass', 'Edema']",
    "data.label_policy=multi", "data.sampling=balanced", "data.value_range=[0.0, 1.0]",
    "data.limit=20", "data.images=80", "generator.width=8", "generator.average=0.5",
    "generator.optimizer.lr=0.1", "objective.plugin=hinge", "schedule.phases=[{ratio='2:1'}]",
    "augmenter.plugin=ada", "evaluation.protocol=multilabel14",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(gan(), tmp_path_factory.mktemp("done") / "run", display=SILENT).path


@pytest.mark.parametrize("override", DECIDING)
@pytest.mark.parametrize("complete", [True, False])
def test_what_decides_the_bits_is_refused_by_its_name(
    override: str, complete: bool, finished: Path, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    shutil.copytree(finished, place, symlinks=True)
    if not complete:
        (place / "evaluation.json").unlink()
    before = contents(place)
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=rf"\n  {re.escape(key)}\S*: .* there, .* now") as refused:
        run(gan().changed(override), place, resume=True, display=SILENT)
    assert "--out" in str(refused.value) and "--from" in str(refused.value)
    assert ("--steps" in str(refused.value)) == (key == "run.steps")
    assert contents(place) == before


def test_the_page_lists_the_keys_that_may_change() -> None:
    text = (ROOT / "docs/run-directory.md").read_text(encoding="utf-8")
    text = text.partition("## What may change")[2]
    assert dict(re.findall(r"^\| `([a-z_.*]+)` \| (.+) \|$", text, re.M)) == RESUMABLE
    for key in RESUMABLE:
        tables, table = key.split("."), schema.RecipeConfig
        for name in tables[:-1]:
            kinds = table.model_fields[name].annotation
            table = next(k for k in (*get_args(kinds), kinds) if hasattr(k, "model_fields"))
        assert tables[-1] == "*" or tables[-1] in table.model_fields, key


def blacken(root: Path) -> None:
    Image.new("L", (32, 32)).save(root / "images/01.png")


def take_away(root: Path) -> None:
    table = root / "images.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))


def swap(root: Path) -> None:
    """As many images of each class as before in both splits."""
    edit("p1,train", "p1,test")(root)
    edit("p8,test", "p8,train")(root)


CHANGED_DATA: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "pixels": (blacken, ["images replaced under their names: 1 ('images/01.png' the first)"]),
    "a label": (
        edit("02.png,Mass", "02.png,Edema"),
        ["images with other labels: 1 ('images/02.png'", "train images of Mass: 20 there, 19 now"],
    ),
    "a patient": (
        edit(",p2,", ",p3,"), ["images of other patients: 1 (", "train patients: 30 there, 29 now"],
    ),
    "a patient's name": (edit(",p2,", ",x2,"), ["the names of patients"]),
    "a split": (
        edit("p1,train", "p1,test"),
        ["training images that are test images now: 1 ('images/01.png'",
         "test images: 10 there, 11 now"],
    ),
    "splits": (
        swap, ["training images that are test images now: 1", "test images that are training"],
    ),
    "fewer": (take_away, ["training images that are gone: 1", "train images: 30 there, 29 now"]),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGED_DATA)
def test_other_images_are_refused_whatever_their_folder(what: str, tmp_path: Path) -> None:
    change, said = CHANGED_DATA[what]
    root = own_data(tmp_path / "data")
    place = run(csv(root, steps=2), tmp_path / "run", display=SILENT).path
    (place / "evaluation.json").unlink()
    before = contents(place)
    change(root)
    with pytest.raises(UserError) as refused:
        run(csv(root, steps=2), place, resume=True, display=SILENT)
    for line in (*said, "data.root", "--out"):
        assert line in str(refused.value)
    assert contents(place) == before


def test_a_file_of_weights_is_compared_by_its_content(
    tmp_path: Path, cut: Callable[[Recipe, Path], None]
) -> None:
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    torch.manual_seed(0)
    state = resnet18().state_dict()
    weights = tmp_path / "weights.safetensors"
    save_file(state, weights)

    def recipe(path: Path) -> Recipe:
        tables = gan().resolved()
        for name in ("generator", "discriminator", "objective"):
            del tables[name]
        tables["run"] |= {"steps": 6, "save_every": 2, "batch_size": 4}
        tables["classifier"] = {"plugin": "resnet18", "weights": str(path)}
        return load_tree(tables, tmp_path / "classifier.toml")

    cut(recipe(weights), tmp_path / "run")
    moved, other = tmp_path / "moved.safetensors", tmp_path / "other.safetensors"
    weights.rename(moved)
    save_file({key: value + 1 for key, value in state.items()}, other)
    with pytest.raises(UserError, match=r"classifier\.weights: .* there, .*other"):
        run(recipe(other), tmp_path / "run", resume=True, display=SILENT)
    run(recipe(moved), tmp_path / "run", resume=True, display=SILENT)
    assert (tmp_path / "run/evaluation.json").exists()


def test_an_environment_that_cannot_be_read_is_not_written_over(
    finished: Path, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    shutil.copytree(finished, place, symlinks=True)
    (place / "evaluation.json").unlink()
    (place / "environment.json").write_text('{"dataset": ')
    before = contents(place)
    with pytest.raises(UserError, match=r"environment\.json.*move it away"):
        run(gan(), place, resume=True, display=SILENT)
    assert contents(place) == before
    (place / "environment.json").unlink()
    run(gan(), place, resume=True, display=SILENT)
    assert "it is not known whether the run continues with the same images" in (
        (place / "run.log").read_text()
    )


def test_an_evaluation_of_other_data_says_so(finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    shutil.copytree(finished, place, symlinks=True)
    trained_on = environment(place)["dataset"]["fingerprint"]
    assert json.loads((place / "evaluation.json").read_text())["protocol"]["fingerprint"] == (
        trained_on
    )
    said = StringIO()
    overrides = ["data.images=90", "evaluation.generated=6"]
    session, opened, step = restore_session(
        place, overrides, Display(Console(file=said, width=300))
    )
    found = json.loads(evaluate_run(session, opened, step).read_text())
    assert "these are not the images of the run: train images: " in said.getvalue()
    assert found["protocol"]["trained_on_fingerprint"] == trained_on
    assert found["protocol"]["fingerprint"] not in (trained_on, None)
    assert found["protocol"]["changed"] == {"data.images": 90, "evaluation.generated": 6}
    write_export(session, opened, step, ("safetensors",), place / "export")
    for page in (protocol(RunFiles(place)), (place / "export/README.md").read_text()):
        assert "Measured on other data than the run was trained on" in page
        assert (
            "Measured with other options than the run's recipe: data.images = 90, evaluation"
            in page
        )
    said = StringIO()
    session, opened, step = restore_session(place, [], Display(Console(file=said)))
    found = json.loads(evaluate_run(session, opened, step).read_text())
    assert not said.getvalue() and "changed" not in found["protocol"]
    assert "trained_on_fingerprint" not in found["protocol"]
    # The same images, and another order of the networks' outputs.
    with pytest.raises(UserError, match=r"data\.classes: .*'Edema', 'Mass'.*'Mass', 'Edema'"):
        restore_session(place, ["data.classes=['Mass', 'Edema']"], SILENT)


def test_a_long_list_of_images_that_were_left_out_hides_nothing(
    finished: Path, tmp_path: Path
) -> None:
    """More than 1 MiB of it: the task and the fingerprint were taken for unknown."""
    place = tmp_path / "run"
    shutil.copytree(finished, place, symlinks=True)
    content = environment(place)
    content["dataset"]["skipped"] = {f"images/{i:06d}.png": "not readable" for i in range(40_000)}
    (place / "environment.json").write_text(json.dumps(content))
    assert (place / "environment.json").stat().st_size > 1 << 20
    found = RunDirectory(place)
    assert trained_on(found) == content["dataset"]["fingerprint"]
    assert recorded_task(found, load(found.recipe)) is not None


def test_metadata_that_networks_are_told_are_data(tmp_path: Path) -> None:
    recipe = gan().changed("data.metadata=['age']", "run.steps=2")
    place = run(recipe, tmp_path / "run", display=SILENT).path
    (place / "evaluation.json").unlink()
    found = environment(place)
    assert len(found["dataset"]["metadata_fingerprint"]) == 64
    found["dataset"]["metadata_fingerprint"] = "0" * 64
    (place / "environment.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match="age, sex or view of some images"):
        run(recipe, place, resume=True, display=SILENT)


# -- longer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_that_is_trained_for_longer_is_the_long_run(
    complete: bool, tmp_path: Path, cut: Callable[[Recipe, Path], None]
) -> None:
    """With constant learning rates and one phase; its averages and its augmenter go on too."""

    def recipe(steps: int) -> Recipe:
        return gan(
            run={"steps": steps, "save_every": 2, "batch_size": 8},
            augmenter={"plugin": "ada", "images": 100, "start": 0.3},
            generator={"average": 0.8},
        )

    run(recipe(9), tmp_path / "whole", display=SILENT)
    place = tmp_path / "run"
    if complete:
        run(recipe(6), place, display=SILENT)
    else:
        cut(recipe(6), place)
    first = (place / "evaluation.json").read_text() if complete else ""
    run(recipe(9), place, resume=True, longer=True, display=SILENT)
    assert hashes(place) == hashes(tmp_path / "whole")
    assert json.loads((place / "evaluation.json").read_text())["step"] == 9
    assert load(place / "recipe.toml").tables.run.steps == 9
    [entry] = environment(place)["resumed"]
    assert entry["changed"]["run.steps"] == {"was": 6, "now": 9}
    assert entry["step"] == (6 if complete else 4)
    if complete:
        assert (place / "evaluation-step-00000006.json").read_text() == first
        assert (place / "report-step-00000006.html").exists() and (place / "report.html").exists()


def test_fewer_steps_than_are_trained_are_refused(finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    shutil.copytree(finished, place, symlinks=True)
    before = contents(place)
    with pytest.raises(UserError, match="trained for 4 steps already, and 3 steps in all"):
        run(gan().changed("run.steps=3"), place, resume=True, longer=True, display=SILENT)
    run(gan(), place, resume=True, longer=True, display=SILENT)  # complete, as it was
    assert contents(place) == before


def test_epochs_can_become_steps(tmp_path: Path) -> None:
    root = own_data(tmp_path / "data")
    tables = csv(root).resolved()
    del tables["run"]["steps"]
    short, same, long = (
        load_tree({**tables, "run": tables["run"] | words}, tmp_path / "gan.toml")
        for words in ({"epochs": 1}, {"steps": 7}, {"epochs": 2})
    )
    place = run(short, tmp_path / "run", display=SILENT).path  # 30 images in batches of 4
    with pytest.raises(UserError, match="trained for 7 steps already, and 7 steps in all"):
        run(same, place, resume=True, longer=True, display=SILENT)
    run(long, place, resume=True, longer=True, display=SILENT)
    assert json.loads((place / "evaluation.json").read_text())["step"] == 14
    assert not lacking(place)
