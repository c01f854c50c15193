"""External test sets: another data set's images before a run's classifier, under their own name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import real_data
from own_data import own_data
from PIL import Image
from saved_run import CLASSIFIER, saved, xraygan
from sklearn.metrics import roc_auc_score

from xraygan import Task, UserError
from xraygan.cli.evaluate import parse_map
from xraygan.data.datamodule import prepare
from xraygan.data.external import read_external
from xraygan.report.run_report import report
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.external_files import check_external_name, external_names
from xraygan.rundir.image_record import write_record
from xraygan.rundir.provenance import keep_evaluation
from xraygan.rundir.reader import RunFiles
from xraygan.session.external import external_recipe
from xraygan.session.session import restore_session
from xraygan.utils.progress import Display

METRICS = "[metrics.classification]\n[metrics.average_precision]\n[metrics.subgroups]\n"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three classes, and beside it the folder of an external data set of two of them."""
    folder = tmp_path_factory.mktemp("external")
    place = saved(folder / "made", CLASSIFIER, METRICS)
    path = own_data(folder / "theirs") / "images.csv"
    table = pd.read_csv(path)
    table.loc[table.index % 8 == 4, "label"] = "Mass"  # test images of both classes
    table.to_csv(path, index=False)
    return place


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def external(original: Path, name: str = "clinic") -> list[str]:
    root = original.parents[1] / "theirs"
    return [
        "--external", name, "--set", "data.plugin=csv", "--set", f"data.root={root}",
        "--set", f"data.cache={root.parent / 'cache'}", "--quiet",
    ]  # fmt: skip


def figures(run: Path, name: str = "clinic") -> dict[str, Any]:
    return json.loads((run / f"evaluation-{name}.json").read_text())


def test_its_figures_are_those_of_the_classifier_on_its_test_images(
    original: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    said = xraygan(capsys, "evaluate", run, *external(original))
    changed = {name for name, content in kept.items() if (run / name).read_bytes() != content}
    assert changed <= {"report.html"}
    assert said.startswith("run: external test set clinic")
    assert "No figures of No Finding: the external data do not label it." in said
    content = figures(run)
    protocol, metrics = content["protocol"], content["metrics"]
    assert (protocol["dataset"], protocol["split"], protocol["images"]) == ("csv", "external", 10)
    assert protocol["classes"] == ["Edema", "Mass"] and protocol["generated"] == 0
    assert protocol["external"]["left_out"] == {"images of other splits than test": 30}
    assert "auc/No Finding" not in metrics
    # The same by hand: the images of the table through the restored classifier.
    root = original.parents[1] / "theirs"
    session, _, _ = restore_session(run, (), Display(quiet=True))
    table = pd.read_csv(root / "images.csv")
    table = table[table["split"] == "test"]
    pixels = [np.asarray(Image.open(root / path)) for path in table["path"]]
    images = torch.from_numpy(np.stack(pixels))
    _, probs = session.evaluation().classify(images, torch.zeros(len(images), 2), real=True)
    found = pd.read_csv(run / "predictions-clinic.csv")
    assert list(found["path"]) == list(table["path"])
    for name, column in (("Edema", 1), ("Mass", 2)):
        truth = (table["label"] == name).to_numpy(int)
        assert list(found[f"label:{name}"]) == list(truth)
        np.testing.assert_allclose(found[f"p:{name}"], probs[:, column], atol=1e-5)
        expected = roc_auc_score(truth, probs[:, column])
        assert metrics[f"auc/{name}"]["value"] == pytest.approx(expected)
    assert "clinic" not in json.dumps(json.loads((run / "evaluation.json").read_text()))
    assert "average_precision/Mass" in (run / "bootstrap-clinic.csv").read_text()
    assert metrics["images[sex=unknown]"]["note"].startswith("the data set gives the sex of no ext")


def test_the_report_lists_it_on_its_own(
    original: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 'id="external"' not in report(RunFiles(run))
    xraygan(capsys, "evaluate", run, *external(original))
    page = (run / "report.html").read_text()
    own, theirs = page.split('id="external"')
    assert "An external test set of csv: Edema as Edema, Mass as Mass." in theirs
    assert "on 10 images of 10 patients" in theirs and "clinic" not in own.split("<main>")[1]


def test_a_name_is_for_one_set_of_images(
    original: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xraygan(capsys, "evaluate", run, *external(original))
    first = (run / "evaluation-clinic.json").read_bytes()
    xraygan(capsys, "evaluate", run, *external(original), "--set", "metrics.calibration={}")
    assert "ece/mean" in figures(run)["metrics"]  # the same images may be measured again
    before = (run / "evaluation-clinic.json").read_bytes()
    assert before != first
    said = xraygan(capsys, "evaluate", run, *external(original), "--all-images", code=2)
    assert "evaluation-clinic.json: it has the figures of other images" in said
    assert (run / "evaluation-clinic.json").read_bytes() == before
    xraygan(capsys, "evaluate", run, *external(original, "clinic-all"), "--all-images")
    assert figures(run, "clinic-all")["protocol"]["images"] == 40
    assert external_names(run) == ["clinic", "clinic-all"]


def test_a_damaged_file_is_named_and_kept(
    original: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "evaluation-clinic.json").write_text('{"protocol": 3}')
    said = xraygan(capsys, "evaluate", run, *external(original), code=2)
    assert "evaluation-clinic.json: protocol: expected" in said
    assert "move the file away, and measure again" in said
    assert (run / "evaluation-clinic.json").read_text() == '{"protocol": 3}'
    found = RunFiles(run)
    assert 'id="external"' not in report(found)
    assert any("evaluation-clinic.json" in one for one in found.damaged)


def test_classes_of_other_names_are_mapped(
    original: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = external(original, "mapped")
    xraygan(capsys, "evaluate", run, *options, "--map", "Edema=No Finding")
    content = figures(run, "mapped")
    assert content["protocol"]["external"]["classes"] == {"Edema": "No Finding", "Mass": "Mass"}
    assert content["protocol"]["external"]["lacking"] == ["Edema"]
    rows = pd.read_csv(run / "predictions-mapped.csv")
    truth = pd.read_csv(original.parents[1] / "theirs" / "images.csv").set_index("path")["label"]
    assert (rows["label:No Finding"] == (truth[rows["path"]] == "Edema").to_numpy()).all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--map", "Edma=Edema"], "no class 'Edma'; did you mean 'Edema'"),
        (["--map", "Edema=Edma"], "the run has no class 'Edma'; did you mean 'Edema'"),
        (["--map", "Mass=Edema"], "only Edema is labelled in the external data"),
        (["--map", "Mass"], "expected THEIRS=OURS"),
        (["--set", "data.image_size=64"], "data.image_size: the run's networks need its own"),
        (["--set", "data.limit=3"], "data.limit: it has no effect on an external test set"),
        (["--set", "evaluation.split=val"], "evaluation.split: an external test set"),
    ],
)
def test_what_cannot_be_measured_says_why(
    original: Path, run: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert said in xraygan(capsys, "evaluate", run, *external(original), *more, code=2)
    assert not (run / "evaluation-clinic.json").exists()


def test_options_that_belong_together(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = xraygan(capsys, "evaluate", run, "--external", "x", code=2)
    assert "--set data.plugin=NAME" in said
    said = xraygan(capsys, "evaluate", run, "--map", "a=b", code=2)
    assert "--map needs --external NAME" in said
    said = xraygan(capsys, "evaluate", run, "--external", "val", code=2)
    assert "is the name of a split" in said


def test_training_images_are_refused_whatever_their_names(
    original: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that learned from the files which the external data have under other names."""
    theirs = original.parents[1] / "theirs"
    sets = ("data.plugin=csv", f"data.root={theirs}", f"data.cache={tmp_path}")
    data = prepare(external_recipe(RunDirectory(run), sets), training=False)
    environment = json.loads((run / "environment.json").read_text())
    environment.setdefault("dataset", {})["fingerprint"] = data.fingerprint
    (run / "environment.json").write_text(json.dumps(environment))
    write_record(RunDirectory(run), data)
    xraygan(capsys, "evaluate", run, *external(original))  # test images alone: none is learned
    assert figures(run)["protocol"]["external"]["checked"] is True
    copy = Path(shutil.copytree(theirs, tmp_path / "copy"))
    for path in (copy / "images").iterdir():
        path.rename(path.with_name(f"renamed-{path.name}"))
    table = (copy / "images.csv").read_text().replace("images/", "images/renamed-")
    (copy / "images.csv").write_text(table)
    options = external(original, "copy")
    options[5] = f"data.root={copy}"
    said = xraygan(capsys, "evaluate", run, *options, "--all-images", code=2)
    assert "30 of the 40 external images are training or validation images" in said
    assert not (run / "evaluation-copy.json").exists()


def test_a_lengthened_run_keeps_the_figures_of_its_shorter_self(
    original: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xraygan(capsys, "evaluate", run, *external(original))
    keep_evaluation(RunDirectory(run), 1)
    assert external_names(run) == []
    kept = [path.name for path in run.glob("*clinic-step-*")]
    assert len(kept) == 3


def test_names_and_maps() -> None:
    for name in ("train", "a/b", "x-step-00000010", "step-00000010", ""):
        with pytest.raises(UserError, match="--external"):
            check_external_name(name)
    check_external_name("nih-2017")
    assert parse_map(("Lung Opacity=PNEUMONIA", " a = b=c ")) == {
        "Lung Opacity": "PNEUMONIA", "a": "b=c",
    }  # fmt: skip
    with pytest.raises(UserError, match="mapped to both"):
        parse_map(("a=b", "a=c"))


def test_images_of_none_or_several_classes_are_left_out_where_classes_are_exclusive(
    run: Path, tmp_path: Path
) -> None:
    """And an image without any label has no finding."""
    own_data(tmp_path / "data", 8)
    path = tmp_path / "data" / "images.csv"
    table = pd.read_csv(path)
    table["split"] = "test"
    labels = "Edema,Mass,Edema|Mass,Hernia,No Finding,Mass|Hernia,Edema,Mass"
    table["label"] = labels.split(",")
    table.to_csv(path, index=False)
    sets = ("data.plugin=csv", f"data.root={tmp_path / 'data'}", f"data.cache={tmp_path}")
    recipe = external_recipe(RunDirectory(run), sets)
    exclusive = Task(32, ("Edema", "Mass", "Normal"), True)
    read = read_external(recipe, exclusive, {"No Finding": "Normal"})
    assert read.split.label_matrix.argmax(axis=1).tolist() == [0, 1, 2, 1, 0, 1]
    assert read.left_out == {
        "images of none of the matched classes": 1,
        "images of several of the matched classes": 1,
    }
    assert len(read.contents) == len(read.split) == 6
    several = Task(32, ("Edema", "Mass", "Normal"), False)
    read = read_external(recipe, several, {"Hernia": "Mass"})
    assert read.lacking == ("Normal",) and not read.left_out
    assert read.split.label_matrix.tolist() == [
        [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0],
    ]  # fmt: skip


def test_images_that_cannot_be_read_stop_or_are_left_out(run: Path, tmp_path: Path) -> None:
    own_data(tmp_path / "data", 8)
    (tmp_path / "data" / "images" / "04.png").write_bytes(b"no image")
    sets = ("data.plugin=csv", f"data.root={tmp_path / 'data'}", f"data.cache={tmp_path}")
    task = Task(32, ("Edema", "Mass"), True)
    with pytest.raises(UserError, match=r"images/04\.png"):
        read_external(external_recipe(RunDirectory(run), sets), task, {}, all_images=True)
    recipe = external_recipe(RunDirectory(run), (*sets, "data.on_bad_image=skip"))
    read = read_external(recipe, task, {}, all_images=True)
    assert len(read.split) == len(read.contents) == 7
    assert "images/04.png" not in read.split.paths
    assert read.left_out == {"images that cannot be read": 1}


def test_chestxray14_before_a_run_of_other_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its groups are counted by hand from the official table."""
    root = real_data("chestxray14")
    words = ["--external", "nih", "--set", "data.plugin=chestxray14", "--set", f"data.root={root}"]
    xraygan(capsys, "evaluate", run, *words, "--set", f"data.cache={tmp_path}", "--quiet")
    table = pd.read_csv(root / "Data_Entry_2017_v2020.csv").set_index("Image Index")
    table = table.loc[(root / "test_list.txt").read_text().split()]
    names = table["Finding Labels"].str.split("|")
    ours = names.map(lambda labels: {*labels} & {"No Finding", "Edema", "Mass"})
    table = table[ours.map(len) == 1]
    metrics = figures(run, "nih")["metrics"]
    assert figures(run, "nih")["protocol"]["images"] == len(table) > 100
    for group, rows in (
        ("sex=F", table["Patient Gender"] == "F"),
        ("view=AP", table["View Position"] == "AP"),
        ("age=60+", table["Patient Age"] >= 60),
        ("age=18-39", table["Patient Age"].between(18, 39)),
    ):
        counted = metrics[f"images[{group}]"]
        assert counted["value"] == rows.sum()
        patients = table.loc[rows, "Patient ID"].nunique()
        assert f"; {patients} patient" in counted["note"]
