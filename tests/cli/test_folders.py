"""Folders of images: their figures are those of a run, of torch-fidelity and of the papers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import gan
from PIL import Image
from saved_run import gan as gan_tables
from saved_run import saved, xraygan

from xraygan.data.image_splits import ImageSplit
from xraygan.evaluation.evaluation import evaluate
from xraygan.session.session import Session, restore_session
from xraygan.utils.progress import Display

EXTRACTOR = ("--extractor", "pixels", "--set", "extractors.pixels.square=8")
SIZE = ("--image-size", 32)
FIGURES = [
    "coverage/pixels", "density/pixels", "frechet/pixels", "improved_precision/pixels",
    "improved_recall/pixels", "kid/pixels", "ms_ssim/generated", "ms_ssim/real",
]  # fmt: skip


def dump(folder: Path, images: torch.Tensor | np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(np.asarray(images)):
        Image.fromarray(image).save(folder / f"{i:05d}.png")
    return folder


def pictures(count: int, seed: int, contrast: float = 40.0) -> np.ndarray:
    """Random images ``(count, 32, 32)`` uint8 with coarse and fine structure."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(count, 4, 4)).repeat(8, 1).repeat(8, 2) * contrast
    return (128 + coarse + random.normal(size=(count, 32, 32)) * 9).clip(0, 255).astype(np.uint8)


def features(images: np.ndarray) -> np.ndarray:
    """The extractor's features: means of 8 x 8 pixels in [-1, 1] over the root of their number."""
    greys = images.astype(np.float64) / 127.5 - 1
    return greys.reshape(-1, 4, 8, 4, 8).mean(axis=(2, 4)).reshape(-1, 16) / 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of 60 generated, 60 reference, 45 held-out images."""
    root = tmp_path_factory.mktemp("folders")
    dump(root / "made", pictures(60, 1, 34.0))
    dump(root / "real", pictures(60, 2))
    dump(root / "held", pictures(45, 3))
    return root


def figures(capsys: pytest.CaptureFixture[str], root: Path, *more: object) -> dict[str, Any]:
    """The content of the file that `evaluate` writes of the folders made and real."""
    out = root / "out.json"
    out.unlink(missing_ok=True)
    xraygan(
        capsys, "evaluate", "--images", root / "made", "--reference", root / "real", *EXTRACTOR,
        *SIZE, "--out", out, "-q", *more,
    )  # fmt: skip
    content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return content


# -- figures ---------------------------------------------------------------------------------------


def test_figures_are_those_of_torch_fidelity(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_fidelity", reason="comes with the extra dev")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, made = features(pictures(60, 2)), features(pictures(60, 1, 34.0))
    both = [torch.from_numpy(x) for x in (real, made)]
    statistics = [fid_features_to_statistics(x) for x in both]
    frechet = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    one_set = {"kid_subsets": 1, "kid_subset_size": 60, "verbose": False}  # of all images
    kid = kid_features_to_metric(*both, **one_set)["kernel_inception_distance_mean"]
    found = figures(capsys, folders)["metrics"]
    assert found["frechet/pixels"]["value"] == pytest.approx(frechet, rel=1e-6)
    assert found["kid/pixels"]["value"] == pytest.approx(kid, rel=1e-6)


def test_figures_are_those_of_the_papers_by_loops(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, made = features(pictures(60, 2)), features(pictures(60, 1, 34.0))
    metrics = figures(capsys, folders)["metrics"]
    found = {name: metrics[name]["value"] for name in FIGURES[:6]}
    assert found == pytest.approx(by_loops(real, made), rel=1e-6)


def by_loops(real: np.ndarray, made: np.ndarray) -> dict[str, float]:
    """The figures of features, image by image."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def reach(points: np.ndarray, neighbours: int) -> list[float]:
        return [
            sorted(float(np.linalg.norm(p - q)) for j, q in enumerate(points) if j != i)[
                neighbours - 1
            ]
            for i, p in enumerate(points)
        ]

    def inside(points: np.ndarray, centres: np.ndarray, neighbours: int) -> np.ndarray:
        by = reach(centres, neighbours)
        return np.array(
            [[np.linalg.norm(p - c) <= r for c, r in zip(centres, by, strict=True)] for p in points]
        )

    covariances = [np.cov(x, rowvar=False) for x in (real, made)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    gap = np.square(real.mean(axis=0) - made.mean(axis=0)).sum()
    within = [
        np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
        for x in (real, made)
    ]
    five = inside(made, real, 5)
    return {
        "frechet/pixels": float(gap + sum(np.trace(c) for c in covariances) - 2 * roots),
        "kid/pixels": float(sum(within) - 2 * np.mean([k(a, b) for a in real for b in made])),
        "improved_precision/pixels": float(inside(made, real, 3).any(axis=1).mean()),
        "improved_recall/pixels": float(inside(real, made, 3).any(axis=1).mean()),
        "density/pixels": float(five.sum(axis=1).mean() / 5),
        "coverage/pixels": float(five.any(axis=0).mean()),
    }


def test_figures_are_those_of_a_run_on_the_same_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features_of = {"extractor": "pixels"}
    names = ("frechet", "kid", "precision_recall", "density_coverage")
    recipe = gan(
        metrics={**dict.fromkeys(names, features_of), "ms_ssim": {}, "fid": False},
        extractors={"pixels": {"square": 8}},
        evaluation={"generated": 40, "bootstrap": 0},
    )
    evaluation = Session.of(recipe, Display(quiet=True)).evaluation()
    expected = json.loads(json.dumps(evaluate(evaluation, 0).content["metrics"]))
    dump(tmp_path / "made", evaluation.fake_images)
    dump(tmp_path / "real", evaluation.reference_images)
    found = figures(capsys, tmp_path)["metrics"]
    assert sorted(found) == sorted(expected) == FIGURES
    for name, figure in found.items():
        figure["note"] = figure["note"].replace("reference images", "training images")
        figure["note"] = figure["note"].replace("reference and", "training and")
        assert figure == expected[name], name


def test_the_control_is_that_of_halves(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every image is used once, and the figures are those of the halves in folders of their own."""
    content = figures(capsys, folders)
    control = content["control"]
    assert control["images"] == 30
    assert sorted(control["real"]) == sorted(control["generated"]) == FIGURES
    real, made = features(pictures(60, 2)), features(pictures(60, 1, 34.0))
    order = torch.randperm(60, generator=_rng("halves")).numpy()
    some = torch.randperm(60, generator=_rng("generated")).numpy()[:30]
    for kind, other in (("real", real[order[30:]]), ("generated", made[some])):
        expected = by_loops(real[order[:30]], other)
        assert {n: control[kind][n]["value"] for n in expected} == pytest.approx(expected, rel=1e-6)
        assert {control[kind][name]["n"] for name in expected} == {30}


def _rng(purpose: str) -> torch.Generator:
    from xraygan.utils.seeding import rng

    return rng("cpu", 0, purpose)


def test_a_few_images_have_no_control_and_the_table_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump(tmp_path / "made", pictures(39, 1))
    dump(tmp_path / "real", pictures(39, 2))
    (tmp_path / "made" / "generated.csv").write_text("file\n", encoding="utf-8")
    said = xraygan(
        capsys, "evaluate", "--images", tmp_path / "made", "--reference", tmp_path / "real",
        *EXTRACTOR, *SIZE,
    )  # fmt: skip
    assert "39 generated images, 39 reference images" in said and "real, 19" not in said
    assert "no control: " in said and "20 images on either side are the least" in said
    assert "--images: left out: files that are no images, such as generated.csv: 1" in said


def test_metrics_that_need_a_run_have_no_figure(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (
        "auc", "classification", "calibration", "inception_score", "frechet_classifier",
        "frechet_per_class", "classification_accuracy_score", "copies",
    )  # fmt: skip
    sets = [f"metrics.{name}.plugin={name}" for name in names]
    sets += ["metrics.frechet_per_class.extractor=pixels", "metrics.ms_ssim=false"]
    metrics = figures(capsys, folders, *(x for text in sets for x in ("--set", text)))["metrics"]
    assert sorted(metrics) == ["copies/pixels", *FIGURES[:6]]
    assert metrics["copies/pixels"]["value"] is None
    assert "no test image has the labels" in metrics["copies/pixels"]["note"]


def test_an_extractor_is_read_once_an_image(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xraygan_distances.pixels import Pixels

    seen, forward = [], Pixels.forward

    def counted(self: Pixels, images: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Pixels, "forward", counted)
    figures(capsys, folders)
    assert sum(seen) == 120


# -- the audit -------------------------------------------------------------------------------------


def write_split(folder: Path, split: ImageSplit, classes: Iterable[str]) -> list[str]:
    """The images of a split in a folder; the rows of their table."""
    dump(folder, split.images[:])
    names = np.array(list(classes))
    labels = ["|".join(names[row.astype(bool)]) for row in split.label_matrix]
    return [
        f"{folder.name}/{i:05d}.png,{label},{patient}"
        for i, (label, patient) in enumerate(zip(labels, split.patients, strict=True))
    ]


def test_the_audit_is_that_of_a_run_on_the_same_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", gan_tables("dcgan"))
    xraygan(capsys, "audit", run, "--generated", 40, "--seed", 3)
    xraygan(capsys, "generate", run, "--count", 40, "--seed", 3, "--out", tmp_path / "made")
    data = restore_session(run, (), Display(quiet=True))[0].data
    rows = ["path,label,patient"]
    for name in ("train", "test"):
        rows += write_split(tmp_path / name, data.splits[name], data.task.classes)
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    said = xraygan(
        capsys, "audit", "--images", tmp_path / "made", "--training", tmp_path / "train",
        "--held-out", tmp_path / "test", "--table", tmp_path / "all.csv", *SIZE, "--seed", 3,
        "--out", tmp_path / "audit",
    )  # fmt: skip
    expected = json.loads((run / "audit.json").read_text(encoding="utf-8"))
    found = json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert said.startswith(expected["says"])
    del expected["membership"]["discriminator"]
    for key in ("verdict", "says", "copies", "membership", "resemblance", "notes"):
        assert found[key] == expected[key], key
    train = {path: f"{i:05d}.png" for i, path in enumerate(data.splits["train"].paths)}
    for pair in expected["nearest"]:
        pair["training"] = train[pair["training"]]
    assert found["nearest"] == expected["nearest"]
    same = {"training_images", "training_patients", "held_out_images", "generated", "seed"}
    assert {k: found["protocol"][k] for k in same} == {k: expected["protocol"][k] for k in same}
    pictures_of = [path / "audit.png" for path in (run, tmp_path / "audit")]
    assert pictures_of[0].read_bytes() == pictures_of[1].read_bytes()


def test_copies_of_training_images_are_found(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = pictures(60, 2)[:30].astype(int) + np.random.default_rng(0).integers(
        -3, 4, (30, 32, 32)
    )
    dump(tmp_path / "copies", copies.clip(0, 255).astype(np.uint8))
    said = xraygan(
        capsys, "audit", "--images", tmp_path / "copies", "--training", folders / "real",
        "--held-out", folders / "held", *EXTRACTOR, *SIZE, "--out", tmp_path / "out",
    )  # fmt: skip
    assert said.startswith("COPIES TRAINING IMAGES: 30 of 30 generated images are flagged")
    assert "30 images; 60 training images, 45 held out" in said
    assert "note: no patients are known: each file counts as a patient of its own" in said
    content = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert sorted(content["copies"]) == ["features", "pixels"]
    assert content["protocol"]["extractor"]["name"] == "pixels"
    for pair in content["nearest"]:
        assert pair["generated"] == pair["training"] and pair["flagged"]


def test_held_out_files_that_are_training_files_are_named(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folders / "held", tmp_path / "held")
    shutil.copy(folders / "real" / "00007.png", tmp_path / "held" / "again.png")
    said = xraygan(
        capsys, "audit", "--images", folders / "made", "--training", folders / "real",
        "--held-out", tmp_path / "held", *SIZE, "-q",
    )  # fmt: skip
    assert (
        "note: held-out files that are also training files: 1, as 'again.png' is '00007.png'"
        in said
    )
    assert "--out FOLDER keeps every figure" in said


def table(folders: Path, tmp_path: Path, patients: dict[str, str], skip: str = "") -> Path:
    """The training and held-out folders below one with a table, which gives some patients."""
    names = []
    for name in ("real", "held"):
        shutil.copytree(folders / name, tmp_path / name)
        names += [f"{name}/{path.name}" for path in sorted((tmp_path / name).iterdir())]
    rows = [{"path": n, "label": "Mass", "patient": patients.get(n, n)} for n in names if n != skip]
    pd.DataFrame(rows).to_csv(tmp_path / "all.csv", index=False)
    return tmp_path / "all.csv"


def test_a_patient_has_one_held_out_image(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(folders, tmp_path, {f"held/{i:05d}.png": f"p{i // 3}" for i in range(45)})
    said = xraygan(
        capsys, "audit", "--images", folders / "made", "--training", tmp_path / "real",
        "--held-out", tmp_path / "held", "--table", file, *SIZE, "-q",
    )  # fmt: skip
    assert "60 training images, 15 held out" in said and "no patients are known" not in said


def test_held_out_images_of_other_classes_are_refused(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(folders, tmp_path, {})
    rows = pd.read_csv(file)
    rows.loc[rows["path"].str.startswith("held"), "label"] = "Edema"
    rows.to_csv(file, index=False)
    said = xraygan(
        capsys, "audit", "--images", folders / "made", "--training", tmp_path / "real",
        "--held-out", tmp_path / "held", "--table", file, *SIZE, code=2,
    )  # fmt: skip
    assert f"{file}: no held-out image has the labels of a training image" in said


def test_a_table_elsewhere_is_refused(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(folders, tmp_path, {})
    said = xraygan(
        capsys, "audit", "--images", folders / "made", "--training", folders / "real",
        "--held-out", tmp_path / "held", "--table", file, *SIZE, code=2,
    )  # fmt: skip
    assert f"{file}: {folders / 'real'} is not below the table's folder" in said


@pytest.mark.parametrize(
    ("patients", "skip", "expected"),
    [
        ({}, "held/00004.png", "no row for 1 of the 45 images of"),
        (
            {"held/00001.png": "p", "real/00001.png": "p"},
            "",
            "the patient 'p' has images in --training",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    patients: dict[str, str], skip: str, expected: str,
) -> None:  # fmt: skip
    file = table(folders, tmp_path, patients, skip)
    said = xraygan(
        capsys, "audit", "--images", folders / "made", "--training", tmp_path / "real",
        "--held-out", tmp_path / "held", "--table", file, *SIZE, code=2,
    )  # fmt: skip
    assert str(file) in said and expected in said


# -- messages --------------------------------------------------------------------------------------

EVALUATE = ["evaluate", "--images", "MADE", "--reference", "REAL", "--extractor", "pixels"]
AUDIT = ["audit", "--images", "MADE", "--training", "REAL", "--held-out", "HELD"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate"], "nothing to measure: name a run or folders of images"),
        (["audit"], "nothing to measure: name a run or folders of images"),
        (["evaluate", "--image-size", "64"], "--image-size needs folders"),
        (["evaluate", "RUN", "--images", "MADE"], "--images: this measures folders without a run"),
        (["evaluate", "RUN", "--out", "NEW"], "--out: this measures folders without a run"),
        (["audit", "RUN", "--extractor", "pixels"], "--extractor: this measures folders without"),
        (["evaluate", "--images", "MADE"], "--reference is missing beside --images"),
        (["evaluate", "--reference", "REAL"], "--images is missing beside --reference"),
        (["audit", "--images", "MADE", "--training", "REAL"], "--held-out is missing beside"),
        ([*EVALUATE, "--checkpoint", "best"], "--checkpoint: only a run has this"),
        ([*AUDIT, "--generated", "20"], "--generated: only a run has this"),
        ([*EVALUATE, "--extractor", "pixel"], "--extractor pixel: no such extractor is installed"),
        ([*EVALUATE, "--extractor", "classifier"], "only a run has a classifier of its own"),
        ([*EVALUATE, "--set", "generator.width=8"], "--set generator.width: without a run"),
        ([*EVALUATE, "--set", "data.root=x"], "--set data.root: without a run"),
        ([*EVALUATE, "--set", "metrics.kid.wide=1"], "[metrics.kid] wide: unknown option"),
        ([*EVALUATE, "--set", "extractors.pixels.square=64"], "square: 64 pixels are more than"),
        (
            [*AUDIT, "--extractor", "pixels", "--set", "extractors.pixels.square=64"],
            "[extractors.pixels] cannot measure: square: 64 pixels are more than",
        ),
        ([*EVALUATE, "--images", "MISSING"], "MISSING: there is no such folder of images"),
        ([*EVALUATE, "--images", "FILE"], "this is a file; name a folder of images"),
        ([*EVALUATE, "--reference", "EMPTY"], "the folder is empty; name a folder of PNG, JPEG"),
        ([*EVALUATE, "--reference", "TEXTS"], "the folder holds 1 files, and none is an image"),
        ([*EVALUATE, "--images", "ONE"], "only one image can be read, and every figure needs two"),
        ([*EVALUATE, "--images", "BAD"], "bad.png: not a readable image"),
        ([*EVALUATE, "--images", "REAL"], "it is the folder of --reference"),
        ([*AUDIT, "--held-out", "ROOT"], "it lies in the folder of --held-out"),
        ([*AUDIT, "--table", "MISSING"], "MISSING: this table does not exist"),
        ([*AUDIT, "--out", "REAL"], "is not empty; name a new folder with --out"),
        ([*EVALUATE, "--out", "FILE"], "this exists already; name a new file, or remove it"),
        ([*EVALUATE, "--out", "MISSING/a.json"], "create it first"),
    ],
)  # fmt: skip
def test_a_fault_is_one_message(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str],
    expected: str,
) -> None:  # fmt: skip
    places = {
        "MADE": folders / "made", "REAL": folders / "real", "HELD": folders / "held",
        "ROOT": folders, "RUN": tmp_path / "run", "EMPTY": tmp_path / "empty",
        "TEXTS": tmp_path / "texts", "FILE": tmp_path / "texts" / "a.txt",
        "BAD": tmp_path / "bad", "NEW": tmp_path / "new", "ONE": tmp_path / "one",
    }  # fmt: skip
    places["EMPTY"].mkdir()
    places["TEXTS"].mkdir()
    places["FILE"].write_text("text", encoding="utf-8")
    dump(places["BAD"], pictures(3, 5))
    (places["BAD"] / "bad.png").write_bytes(b"no picture")
    dump(places["ONE"], pictures(1, 5))
    named = [
        str(places.get(word, word)).replace("MISSING", str(tmp_path / "MISSING")) for word in words
    ]
    said = xraygan(capsys, *named, *([*SIZE] if "--images" in words else []), code=2)
    assert expected in said
    assert "Traceback" not in said and said.count("xraygan: ") == 1
    assert "data.plugin" not in said  # a key that these commands refuse
    assert places["FILE"].read_text(encoding="utf-8") == "text"


def test_unreadable_images_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump(tmp_path / "made", pictures(24, 1))
    dump(tmp_path / "real", pictures(24, 2))
    expected = figures(capsys, tmp_path)["metrics"]
    (tmp_path / "made" / "00003a.png").write_bytes(b"no picture")
    content = figures(capsys, tmp_path, "--set", "data.on_bad_image=skip")
    assert content["metrics"] == expected
    folder = content["protocol"]["folders"]["images"]
    assert (folder["images"], folder["left_out"]) == (24, {"images that cannot be read": 1})


def test_dicom_without_an_ending_and_images_in_subfolders_are_read(tmp_path: Path) -> None:
    from malformed_images import NOISE, dicom

    from xraygan.data.folders import list_images

    dump(tmp_path / "b" / "c", pictures(1, 1))
    dicom(tmp_path / "b" / "1.2.840", NOISE)
    dump(tmp_path / ".hidden", pictures(1, 1))
    (tmp_path / "b" / "LICENSE").write_text("text", encoding="utf-8")
    (tmp_path / "b" / "scan.DCM").write_bytes(b"no DICOM")  # named when it is read
    paths, others = list_images(tmp_path, "--images")
    assert paths == ["b/1.2.840", "b/c/00000.png", "b/scan.DCM"]
    assert others == {"files that are no images, such as b/LICENSE": 1}


def test_an_image_that_a_link_brings_from_outside_is_refused(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump(tmp_path / "made", pictures(3, 1))
    (tmp_path / "made" / "link.png").symlink_to(folders / "real" / "00000.png")
    said = xraygan(
        capsys, "evaluate", "--images", tmp_path / "made", "--reference", folders / "real", *SIZE,
        "--extractor", "pixels", code=2,
    )  # fmt: skip
    assert "'link.png' leads out of this folder by a symbolic link" in said
