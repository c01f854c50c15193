"""Which figures of two runs are set beside each other, and which are struck and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
from made_run import make, recipe
from test_report_command import change, compared

from xraygan.report.comparability import why_not
from xraygan.rundir.reader import RunFiles

FIGURES = {
    "frechet_classifier": {"value": 1.5, "n": 10, "note": "by the run's own classifier, not FID"},
    "frechet/ruler": {"value": 2.5, "n": 10, "note": "in the features of the extractor ruler"},
    "fid": {"value": 30.0, "n": 10, "note": "by pytorch-fid's Inception"},
    "ms_ssim/generated": {"value": 0.5, "n": 10, "note": "5 pairs, 3 scales"},
}
RULER = {"plugin": "resnet18", "weights": "ruler.safetensors"}


def run(directory: Path, **figures: dict[str, Any]) -> Path:
    """A run with metrics of generated images."""
    make(directory)
    tables = {**recipe(), "extractors": {"ruler": RULER}}
    (directory / "recipe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    metrics = {name: {**about, **figures.get(name, {})} for name, about in FIGURES.items()}
    evaluation(images_fingerprint="cafe")(directory)
    change(directory / "evaluation.json", lambda e: e["metrics"].update(metrics))
    return directory


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return run(tmp_path / "one"), run(tmp_path / "two")


def reason(pair: tuple[Path, Path], name: str) -> str | None:
    return why_not(name, RunFiles(pair[1]), RunFiles(pair[0]))


def edit_recipe(directory: Path, **tables: dict[str, Any]) -> None:
    path = directory / "recipe.toml"
    content = {**recipe(), "extractors": {"ruler": RULER}}
    for name, keys in tables.items():
        content[name] = {**content.get(name, {}), **keys}
    path.write_text(tomli_w.dumps(content), encoding="utf-8")


def evaluation(**words: Any) -> Callable[[Path], None]:
    return lambda path: change(path / "evaluation.json", lambda e: e["protocol"].update(words))


def other_patients(path: Path) -> None:
    table = pd.read_csv(path / "predictions.csv")
    table.assign(patient=range(6)).to_csv(path / "predictions.csv", index=False)


def other_labels(path: Path) -> None:
    table = pd.read_csv(path / "predictions.csv")
    (name, *_) = (column for column in table if column.startswith("label:"))
    table.assign(**{name: 1 - table[name]}).to_csv(path / "predictions.csv", index=False)


OTHER_RULER = {"ruler": {**RULER, "weights": "b.pth"}}
#: how the second run differs -> the metrics that are struck, and why
STRUCK: dict[str, tuple[Callable[[Path], Any], dict[str, str]]] = {
    "nothing": (lambda path: None, {}),
    "split": (evaluation(split="val"), dict.fromkeys((*FIGURES, "accuracy"), "split: val, test")),
    "classes": (evaluation(classes=["a"]), {}),  # of an old run, which does not record them
    "test images": (other_patients, {"accuracy": "other test images"}),
    "labels": (other_labels, {"accuracy": "other labels"}),
    "pixels": (
        evaluation(images_fingerprint="beef"),
        {"accuracy": "other images under the same names"},
    ),
    "evaluated on other data": (
        evaluation(fingerprint="beef"),
        dict.fromkeys(("frechet/ruler", "fid", "ms_ssim/generated"), "other training images"),
    ),
    "size": (
        lambda path: edit_recipe(path, data={"image_size": 32}),
        dict.fromkeys(("frechet/ruler", "fid", "ms_ssim/generated"), "pixels across an image (32"),
    ),
    "reference": (
        evaluation(reference="held_out"),
        dict.fromkeys(
            ("frechet/ruler", "fid", "ms_ssim/generated"), r"held_out, train in the first"
        ),
    ),
    "count": (
        evaluation(generated=20),
        dict.fromkeys(("frechet/ruler", "fid", "ms_ssim/generated"), r"generated images (20, 10"),
    ),
    "extractor": (
        lambda path: edit_recipe(path, extractors=OTHER_RULER),
        {"frechet/ruler": "by other extractors"},
    ),
    "data": (
        lambda path: change(
            path / "environment.json", lambda e: e["dataset"].update(fingerprint="beef")
        ),
        dict.fromkeys(("frechet/ruler", "fid", "ms_ssim/generated"), "other training images"),
    ),
    "folder": (lambda path: edit_recipe(path, data={"root": "elsewhere"}), {}),
}


@pytest.mark.parametrize("what", STRUCK)
def test_exactly_what_cannot_be_compared_is_struck(pair: tuple[Path, Path], what: str) -> None:
    how, struck = STRUCK[what]
    how(pair[1])
    for name in (*FIGURES, "accuracy"):
        said = reason(pair, name)
        if name == "frechet_classifier" and name not in struck:
            assert said is not None and "each run's own classifier" in said
        elif name in struck:
            assert said is not None and struck[name] in said, name
        else:
            assert said is None, name


@pytest.mark.parametrize("what", ["data", "evaluated on other data", "folder"])
def test_of_former_versions_the_data_tell_whether_the_test_images_are_the_same(
    pair: tuple[Path, Path], what: str
) -> None:
    """They did not record a fingerprint of the images that were measured."""
    for path in pair:
        change(path / "evaluation.json", lambda e: e["protocol"].pop("images_fingerprint"))
    STRUCK[what][0](pair[1])
    said = reason(pair, "accuracy")
    if what == "folder":
        assert said is None
    else:
        assert said is not None and "images of other data under the same names" in said


def test_the_options_of_a_metric_name_its_extractor(tmp_path: Path) -> None:
    """A metric can be called as an extractor that it does not use, and the other way round."""
    figures = {
        "frechet/ruler": {"options": {"features": False}},
        "fid": {"options": {"extractor": "ruler"}},
    }
    pair = (run(tmp_path / "one", **figures), run(tmp_path / "other", **figures))
    edit_recipe(pair[1], extractors=OTHER_RULER)
    assert reason(pair, "frechet/ruler") is None
    assert "by other extractors" in str(reason(pair, "fid"))


def test_a_recorded_network_decides_and_not_its_path(tmp_path: Path) -> None:
    """The same weights in another place are the same network; others in the same place are not."""
    one = run(tmp_path / "one", **{name: {"network": "aa"} for name in FIGURES})
    same = run(tmp_path / "same", **{name: {"network": "aa"} for name in FIGURES})
    edit_recipe(same, extractors=OTHER_RULER)
    for name in ("frechet_classifier", "frechet/ruler", "fid"):
        assert reason((one, same), name) is None
    others = run(tmp_path / "others", **{name: {"network": "bb"} for name in FIGURES})
    for name in ("frechet/ruler", "fid"):
        assert "networks with other weights" in str(reason((one, others), name))
    assert "each run's own classifier" in str(reason((one, others), "frechet_classifier"))
    sized = run(tmp_path / "sized", **{name: {"network": "aa"} for name in FIGURES})
    edit_recipe(sized, extractors={"ruler": {**RULER, "size": 75}})
    assert "by other extractors" in str(reason((one, sized), "frechet/ruler"))


def test_other_options_of_a_metric_are_no_other_value_of_it(tmp_path: Path) -> None:
    one = run(tmp_path / "one", fid={"options": {"k": 3}})
    two = run(tmp_path / "two", fid={"options": {"k": 5}})
    assert "with other options ({'k': 5}, {'k': 3})" in str(reason((one, two), "fid"))


def test_random_weights_of_another_seed_are_another_network(pair: tuple[Path, Path]) -> None:
    for seed, path in enumerate(pair):
        edit_recipe(path, extractors={"ruler": {**RULER, "weights": "random"}}, run={"seed": seed})
    assert "other random weights" in str(reason(pair, "frechet/ruler"))


def test_limited_draws_of_the_same_images_compare(pair: tuple[Path, Path]) -> None:
    for limit, path in zip((100, 200), pair, strict=True):
        edit_recipe(path, data={"limit": limit})
        change(
            path / "environment.json", lambda e, p=limit: e["dataset"].update(fingerprint=str(p))
        )
    assert reason(pair, "fid") is None


def test_the_page_strikes_a_distance_of_each_runs_own_classifier(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Both values stand there, on no common axis, with no difference, and with the reason."""
    for path, value in zip(pair, (1.5, 1.25), strict=True):
        change(
            path / "evaluation.json",
            lambda e, v=value: e["metrics"]["frechet_classifier"].update(value=v),
        )
        table = pd.read_csv(path / "bootstrap.csv")
        table.assign(frechet_classifier=value).to_csv(path / "bootstrap.csv", index=False)
    page = compared(tmp_path, *pair)
    labels = [svg.get("aria-label") for svg in page.all("svg")]
    assert "fid of each run, with intervals" in labels
    assert "frechet_classifier of each run, with intervals" not in labels
    assert "1.500 no interval 1.250 no interval Not comparable: measured in the fea" in page.said
    assert "\N{MINUS SIGN}0.250" not in page.said


def test_a_pair_of_the_same_run_needs_no_reason(tmp_path: Path) -> None:
    directory = run(tmp_path / "one")
    metrics = json.loads((directory / "evaluation.json").read_text())["metrics"]
    files = RunFiles(directory)
    for name in metrics:
        if name != "frechet_classifier":
            assert why_not(name, files, files) is None
