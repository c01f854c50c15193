"""Validation images: who is set aside, what is chosen by them, and which split a figure is of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from conftest import SMALL
from made_run import make
from PIL import Image
from saved_run import CLASSIFIER, gan, saved, xraygan
from test_sweep import fake_run, written

from xraygan import UserError
from xraygan.data.datamodule import ImageData, prepare
from xraygan.recipe.loading import Recipe, load, load_tree
from xraygan.report.comparison import comparison
from xraygan.report.run_report import report
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.provenance import Resumption, material_changes
from xraygan.rundir.reader import RunFiles
from xraygan.sweep import load as load_sweep
from xraygan.sweep import write_tables
from xraygan.sweep.plan import plan
from xraygan.training.engine import run
from xraygan.utils.progress import Display

# -- who is set aside ------------------------------------------------------------------------------


def own(root: Path, *rows: str) -> None:
    """A table of these rows: patient, label, split."""
    lines = ["path,patient,label,split"]
    for number, row in enumerate(rows):
        path = root / f"{number:03}.png"
        if not path.exists():
            Image.new("L", (16, 16), number % 256).save(path)
        lines.append(f"{path.name},{row}")
    (root / "images.csv").write_text("\n".join(lines), encoding="utf-8")


def prepared(root: Path, *sets: str) -> ImageData:
    keys = ["plugin=csv", f"root={root}", "classes=all", "image_size=16"]
    small = [*(f"data.{key}" for key in keys), "run.batch_size=2"]
    return prepare(load("baseline_resnet50", [*small, *sets]))


ROWS = [f"p{i // 2},{'Mass' if i % 2 else 'Edema'},{'test' if i > 239 else 'train'}"
        for i in range(280)]  # fmt: skip


def test_a_patient_is_set_aside_by_its_name_alone(tmp_path: Path) -> None:
    """Whatever the run's seed, the other patients, the order of the rows and the limit."""
    own(tmp_path, *ROWS)
    share = "data.validation=0.25"
    first = prepared(tmp_path, share)
    names = {split: set(images.patients) for split, images in first.splits.items()}
    assert {*names} == {"train", "val", "test"}
    assert not names["val"] & (names["train"] | names["test"])
    assert 15 < len(names["val"]) < 45  # of 120: three standard deviations
    assert len(first.splits["val"]) == 2 * len(names["val"])
    assert names["test"] == {f"p{i}" for i in range(120, 140)}
    for sets in (["run.seed=7"], ["data.limit=9"], ["data.limit=9", "run.seed=3"]):
        again = prepared(tmp_path, share, *sets).splits
        assert again["val"].paths == first.splits["val"].paths
    own(tmp_path, *ROWS[:100], *ROWS[240:])
    fewer = set(prepared(tmp_path, share).splits["val"].patients)
    assert fewer == names["val"] & {f"p{i}" for i in range(50)}
    more = set(prepared(tmp_path, "data.validation=0.5").splits["val"].patients)
    assert fewer < more


def test_no_share_leaves_the_splits_as_they_were(tmp_path: Path) -> None:
    own(tmp_path, *ROWS)
    splits = prepared(tmp_path).splits
    assert {name: len(images) for name, images in splits.items()} == {"train": 240, "test": 40}


def test_a_draw_of_the_datasets_own_and_a_share_do_not_meet(tmp_path: Path) -> None:
    """csv draws test patients by a number of the patient too; the share is of those left."""
    own(tmp_path, *ROWS)
    drawn = ["data.split=", "data.test_fraction=0.5"]
    before = prepared(tmp_path, *drawn).splits
    after = prepared(tmp_path, *drawn, "data.validation=0.5").splits
    assert after["test"].paths == before["test"].paths
    assert 0.25 < len(after["val"]) / len(before["train"]) < 0.75


def test_a_list_of_validation_images_is_used_as_it_is(tmp_path: Path) -> None:
    own(tmp_path, *[row.replace("train", "val") if "p1," in row else row for row in ROWS])
    data = prepared(tmp_path, "data.validation=0.25")
    assert set(data.splits["val"].patients) == {"p1"}
    said = "data.validation = 0.25 is not used: the dataset has 2 validation images of its own"
    assert said in data.warnings


@pytest.mark.parametrize("protocol", ["official", "paper"])
def test_validation_images_follow_the_protocol_of_test_images(
    tmp_path: Path, protocol: str
) -> None:
    """And not the label policy of training: what is chosen is chosen by what is measured."""
    rows = [f"{row.split(',')[0]},Mass|Edema,{row.split(',')[2]}" for row in ROWS[::2]]
    own(tmp_path, *ROWS, *rows)
    splits = prepared(tmp_path, "data.validation=0.25", f"evaluation.protocol={protocol}").splits
    assert (splits["train"].label_matrix.sum(axis=1) == 1).all()
    for name in ("val", "test"):
        assert (splits[name].label_matrix.sum(axis=1) == 2).any() == (protocol == "official")


# -- what is chosen by them ------------------------------------------------------------------------

GIVEN = (
    *SMALL,
    "data.images=160",
    "classifier.weights=random",
    'data.classes=["Cardiomegaly", "Effusion", "Edema"]',
    "data.validation=0.3",
    "run.steps=3",
    "run.save_every=1",
    "run.keep=0",
    "run.evaluate_every=1",
    "run.keep_best=auc/mean",
    "metrics.fid=false",
    "trackers.csv={}",
)


def recipe(*overrides: str) -> Recipe:
    return load("ucgan_full", [*GIVEN, *overrides])


def figures(path: Path) -> dict[str, float]:
    """The figures of an evaluation that are numbers."""
    metrics = json.loads(path.read_text())["metrics"]
    return {name: one["value"] for name, one in metrics.items() if isinstance(one["value"], float)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("trained") / "run"
    run(recipe(), out, display=Display(quiet=True))
    yield out


def test_while_it_trains_a_run_is_measured_on_its_validation_images(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same figures as of ``evaluate`` on that split, whose files stand beside the test's."""
    kept = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    said = xraygan(capsys, "evaluate", trained, "--set", "evaluation.split=val", "--quiet")
    assert said.startswith("run: validation images")
    assert all((trained / name).read_bytes() == content for name, content in kept.items())
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "evaluation" in line]
    assert [(line["step"], line["split"]) for line in measured] == [
        (1, "val"), (2, "val"), (3, "val"),
    ]  # fmt: skip
    assert measured[-1]["evaluation"] == pytest.approx(figures(trained / "evaluation-val.json"))
    assert measured[-1]["evaluation"] != pytest.approx(figures(trained / "evaluation.json"))
    best = max(measured, key=lambda line: line["evaluation"]["auc/mean"])["step"]
    assert (trained / "checkpoints/best").read_text() == f"step-{best:08d}\n"


def test_trackers_are_told_of_which_images_a_figure_is(trained: Path) -> None:
    table = pd.read_csv(trained / "metrics.csv")
    assert table["validation/auc/mean"].notna().sum() == 3
    assert not [name for name in table if name.startswith("evaluation/")]


def test_a_run_says_what_its_data_come_to(trained: Path) -> None:
    """In environment.json, the log and the report, as ``data prepare`` prints it."""
    data = json.loads((trained / "environment.json").read_text())["dataset"]
    found = prepare(recipe())
    assert {name: data[name] for name in found.summary()} == found.summary()
    assert sum(data["images"].values()) + sum(data["left_out"].values()) == 160
    log, page = ((trained / name).read_text() for name in ("run.log", "report.html"))
    for reason, count in data["left_out"].items():
        assert f"left out: {reason}: {count}" in log
        assert f"{reason}: {count}" in page


def test_the_files_of_a_split_are_of_its_patients(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xraygan(capsys, "evaluate", trained, "--set", "evaluation.split=val", "--quiet")
    splits = prepare(recipe()).splits
    for split, ending in (("test", ""), ("val", "-val")):
        about = json.loads((trained / f"evaluation{ending}.json").read_text())["protocol"]
        assert (about["split"], about["images"]) == (split, len(splits[split]))
        rows = pd.read_csv(trained / f"predictions{ending}.csv", dtype=str)
        assert list(rows["path"]) == splits[split].paths
        assert (trained / f"bootstrap{ending}.csv").exists()


def test_a_run_to_choose_by_has_its_figures_of_validation_images(tmp_path: Path) -> None:
    """``evaluation.json`` is of the split that the recipe names; of the other one, beside."""
    place = tmp_path / "run"
    run(recipe("evaluation.split=val", "run.steps=1"), place, display=Display(quiet=True))
    content = json.loads((place / "evaluation.json").read_text())
    assert content["protocol"]["split"] == "val"
    assert not (place / "evaluation-val.json").exists()
    page = (place / "report.html").read_text()
    assert f"{content['protocol']['images']} validation images of" in page
    assert "Measured during training, on validation images" in page
    assert "curves on validation images" in page


def test_other_validation_images_than_those_set_aside_are_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--set", "evaluation.split=val", "--set", "data.validation=0.5")
    said = xraygan(capsys, "evaluate", trained, *asked, code=2)
    assert "[data] validation" in said and "was trained with 0.3" in said


def test_a_run_without_validation_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was kept by its test images, as former versions did, can still be measured."""
    place = saved(tmp_path, CLASSIFIER, gan("dcgan"))
    text = (place / "recipe.toml").read_text()
    changed = text.replace("evaluate_every = 0", 'evaluate_every = 1\nkeep_best = "auc/mean"')
    assert changed != text
    (place / "recipe.toml").write_text(changed.replace("validation = 0.0\n", ""))
    xraygan(capsys, "evaluate", place, "--quiet")
    said = xraygan(capsys, "evaluate", place, "--set", "evaluation.split=val", code=2)
    assert '[evaluation] split is "val", and there are no validation images' in said
    said = xraygan(capsys, "run", place / "recipe.toml", "--out", tmp_path / "again", code=2)
    assert "[run] keep_best" in said and not (tmp_path / "again").exists()


@pytest.mark.parametrize("command", ["run", "check", "data prepare"])
def test_the_best_is_never_chosen_by_test_images(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    sets = [word for text in (*GIVEN, "data.validation=0.0") for word in ("--set", text)]
    said = xraygan(capsys, *command.split(), "ucgan_full", *sets, code=2)
    assert "[run] keep_best" in said and "set data.validation = 0.1" in said
    assert not list(tmp_path.iterdir())


def test_a_run_of_a_version_without_these_keys_can_be_resumed(tmp_path: Path) -> None:
    now = load("quickstart")
    tree = now.resolved()
    del tree["data"]["validation"], tree["evaluation"]["split"]
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tree))
    assert material_changes(RunDirectory(tmp_path), now) == {}
    assert Resumption.of(RunDirectory(tmp_path), now).changed == {}
    with pytest.raises(UserError, match=r"data\.validation: 0\.0 there, 0\.1 now"):
        Resumption.of(RunDirectory(tmp_path), load("quickstart", ["data.validation=0.1"]))


# -- which split a figure is of --------------------------------------------------------------------


def of_split(directory: Path, split: str) -> Path:
    """A made run whose figures and whose last logged line are of a split."""
    make(directory)
    path = directory / "evaluation.json"
    content = json.loads(path.read_text())
    content["protocol"]["split"] = split
    path.write_text(json.dumps(content))
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    line = {"step": 1500, "split": split, "evaluation": {"accuracy": 0.5}}
    (directory / "metrics.jsonl").write_text("\n".join([*lines[:-2], json.dumps(line), ""]))
    return directory


def test_the_pages_name_the_split(tmp_path: Path) -> None:
    runs = [RunFiles(of_split(tmp_path / split, split)) for split in ("val", "test")]
    for files, kind, other in zip(
        runs, ("validation", "test"), ("test", "validation"), strict=True
    ):
        page = report(files)
        for text in (f"on 6 {kind} images of", f"during training, on {kind} images",
                     f"curves on {kind} images", f"the {kind} split has"):  # fmt: skip
            assert text in page
            assert text.replace(kind, other) not in page
    page = comparison(runs)
    assert "These runs were measured with different protocols" in page
    for kind in ("validation", "test"):
        assert f"during training, on {kind} images" in page
    assert "curves on validation and test images" in page


@pytest.mark.parametrize("split", ["val", None])
def test_the_table_of_a_sweep_names_the_split(tmp_path: Path, split: str | None) -> None:
    sweep = load_sweep(written(tmp_path / "small.toml", seeds=[0]))
    runs = plan(sweep, tmp_path / "out")
    for one in runs:
        fake_run(one.run_dir.path, {"accuracy": np.full(50, 0.5)}, ["a", "b"])
        path = one.run_dir.evaluation
        content = json.loads(path.read_text())
        content["protocol"] |= {"images": 2, "patients": 2} | ({"split": split} if split else {})
        path.write_text(json.dumps(content))
    text = write_tables(sweep, runs, tmp_path / "out", "xraygan sweep").read_text()
    assert f"2 {'validation' if split else 'test'} images of 2 patients" in text
    table = pd.read_csv(tmp_path / "out/table.csv", keep_default_na=False)
    assert set(table["split"]) == {split or ""}


# -- images that a run was trained on --------------------------------------------------------------


def test_no_option_makes_test_images_of_training_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another draw, other columns of splits, other validation images; also where data moved."""
    root = tmp_path / "data"
    root.mkdir()
    own(root, *ROWS)
    table = root / "images.csv"
    rows = table.read_text().splitlines()
    other = ["train" if row.endswith("test") else "test" for row in rows[1:]]
    lines = [f"{row},{split}" for row, split in zip(rows, ["other", *other], strict=True)]
    table.write_text("\n".join(lines))
    sets = (
        "data.plugin=csv", f"data.root={root}", "data.classes=all", "data.image_size=16",
        "data.split=",
        "classifier.plugin=resnet18", "classifier.weights=random", "run.steps=1",
        "run.batch_size=4", "evaluation.bootstrap=0", "evaluation.protocol=official",
    )  # fmt: skip
    place = tmp_path / "run"
    run(load("baseline_resnet50", sets), place, display=Display(quiet=True))
    before = (place / "evaluation.json").read_bytes()
    moved = tmp_path / "moved"
    root.rename(moved)
    here = f"data.root={moved}"
    for command, sets in (
        ("evaluate", ("data.seed=1",)),
        ("evaluate", ("data.test_fraction=0.5",)),
        ("evaluate", ("data.split=other",)),
        ("evaluate", ("data.val_fraction=0.3", "evaluation.split=val")),
        ("explain", ("data.seed=1",)),
    ):
        words = [word for text in (here, *sets) for word in ("--set", text)]
        said = xraygan(capsys, command, place, *words, code=2)
        key = sets[0].partition("=")[0]
        assert "the run was trained on" in said and f"because {key} was changed" in said
    assert (place / "evaluation.json").read_bytes() == before
    # Another hospital's images, in a table of its own.
    for number in range(250):
        image = Image.new("L", (16, 16), number)
        image.putpixel((0, 0), 128)
        image.save(tmp_path / f"{number:03}.png")
    own(tmp_path, *ROWS[:250])
    xraygan(
        capsys, "evaluate", place, "--set", f"data.root={tmp_path}", "--set", "data.split=split"
    )


# -- the best checkpoint ---------------------------------------------------------------------------


def stopped(trained: Path, place: Path) -> Path:
    """A copy of the trained run as it was after its first step, measured by a former version."""
    shutil.copytree(trained, place)
    for path in (*place.glob("evaluation*"), *place.glob("checkpoints/step-0000000[23]")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["step"] == 1]
    for line in kept:
        if "evaluation" in line:
            del line["split"]  # former versions measured the test images
            line["evaluation"]["auc/mean"], line["best"] = 1.0, True
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    (place / "checkpoints/best").write_text("step-00000001\n")
    return place


def test_a_figure_of_test_images_is_no_bar_for_validation_images(
    trained: Path, tmp_path: Path
) -> None:
    place = stopped(trained, tmp_path / "run")
    run(recipe(), place, resume=True, display=Display(quiet=True))
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    values = {n["step"]: n["evaluation"]["auc/mean"] for n in lines if n.get("split") == "val"}
    best = max(values, key=lambda step: values[step])
    assert sorted(values) == [2, 3]
    assert (place / "checkpoints/best").read_text() == f"step-{best:08d}\n"


def test_a_run_that_chose_by_test_images_goes_on_without_choosing(
    trained: Path, tmp_path: Path
) -> None:
    place = stopped(trained, tmp_path / "run")
    tree = recipe().resolved()
    with pytest.raises(UserError, match=r"run\.keep_best: auc/mean there, auc/Edema now"):
        run(recipe("run.keep_best=auc/Edema"), place, resume=True, display=Display(quiet=True))
    del tree["run"]["keep_best"]
    run(load_tree(tree, tmp_path), place, resume=True, display=Display(quiet=True))
    assert (place / "checkpoints/best").read_text() == "step-00000001\n"
    assert (place / "checkpoints/step-00000003").is_dir()


@pytest.mark.slow
def test_figures_of_the_images_that_chose_the_checkpoint_are_said_to_be_too_good(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "run"
    shutil.copytree(trained, place)
    good = "the same ones, so these figures are too good"
    words = ("evaluate", place, "--checkpoint", "best")
    said = xraygan(capsys, *words)
    assert "chosen by its figures on the validation images." in said and good not in said
    assert "chosen by its figures on the validation images." in report(RunFiles(place))
    assert good in xraygan(capsys, *words, "--set", "evaluation.split=val")
    old = place / "metrics.jsonl"
    old.write_text(old.read_text().replace('"split": "val", ', ""))
    said = xraygan(capsys, *words)
    assert f"chosen by its figures on the test images, {good}" in said
    assert good in report(RunFiles(place))
    assert "chosen by" not in xraygan(capsys, "evaluate", place)
