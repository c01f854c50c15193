"""``xraygan verify`` of a utility study: an untouched one holds, a forged one not."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from changes import edit_json
from forgeries import BROKEN, FORGED, forge
from in_process import execute
from own_data import SILENT, own_data
from PIL import Image, ImageOps

from xraygan.study.design import Options
from xraygan.study.page import write_results
from xraygan.study.record import Source
from xraygan.study.study import run_study
from xraygan.verify.places import same_place
from xraygan.verify.report import Outcome, Report
from xraygan.verify.study import check_study
from xraygan.verify.verify import Options as VerifyOptions
from xraygan.verify.verify import verify

pytestmark = pytest.mark.slow

OPTIONS = Options(
    real=(4, 6, 5000), ratios=(0.5, 1.0), filters=("none",), keep=(0.5,), seeds=2, choice_seeds=1,
    steps=2, count=60, metric="auc/mean", extractor=None, arms=(),
)  # fmt: skip
RECIPE = """extends = "baseline_resnet50"
run = {{ batch_size = 8, threads = 1, precision = "fp32" }}
classifier = {{ plugin = "resnet18", weights = "random" }}
evaluation = {{ bootstrap = 20 }}

[data]
plugin = "csv"
root = "{root}"
image_size = 32
validation = 0.3
only = []
classes = ["Edema", "Mass"]
"""


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished study in ``study``, of generated images in ``made``."""
    folder = tmp_path_factory.mktemp("studied")
    own_data(folder / "real", count=60)
    table = pd.read_csv(folder / "real" / "images.csv")
    table["label"] = ["Edema", "Mass"] * 15 + ["Mass", "Edema"] * 15
    table["split"] = ["test"] * 20 + ["train"] * 40
    table.to_csv(folder / "real" / "images.csv", index=False)
    made = own_data(folder / "made", count=24)
    table = pd.read_csv(made / "images.csv")[["path", "label"]]
    table.to_csv(made / "generated.csv", index=False)
    for path in table["path"]:  # of the same pixels as real ones, which would be refused
        with Image.open(made / path) as image:
            mirrored = ImageOps.mirror(image)
        mirrored.save(made / path)
    (folder / "recipe.toml").write_text(RECIPE.format(root=folder / "real"))
    source = Source(folder=made, recipe=str(folder / "recipe.toml"))
    study = run_study(source, OPTIONS, folder / "study", SILENT, execute, "xraygan utility")
    write_results(study)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def study(studied: Path, tmp_path: Path) -> Path:
    """A copy of the study's folder; checkpoints, which no test writes, are links."""

    def copy(source: str, target: str) -> None:
        if "checkpoints" in source:
            os.link(source, target)
        else:
            shutil.copy(source, target)

    shutil.copytree(studied / "study", tmp_path / "copy", copy_function=copy)
    return tmp_path / "copy"


def whole(folder: Path) -> Report:
    return verify(folder, VerifyOptions(evaluations=0), SILENT)


def checked(folder: Path, *overrides: str) -> Report:
    """The checks of the study itself, without those of each run."""
    report = Report(folder)
    check_study(report, folder, overrides, SILENT, None, audit=False)
    return report


def lines(report: Report, outcome: Outcome = Outcome.DIFFERS) -> list[str]:
    return [finding.line() for finding in report.findings if finding.outcome == outcome]


# -- untouched -------------------------------------------------------------------------------------


def test_an_untouched_study_holds(study: Path) -> None:
    report = whole(study)
    assert not lines(report)
    held = "\n".join(lines(report, Outcome.HOLDS))
    for said in (
        "base.toml: as asked.json asks",
        "asked.json: gives, with base.toml, the recipes of all runs",
        "utility.json: says what its runs, images and audit.json give",
        "utility.csv: 4 lines", "utility.md", "utility.png: is the", "utility.html: is the page",
    ):  # fmt: skip
        assert f"holds        {said}" in held
    assert [line for line in lines(report, Outcome.UNCHECKED) if "utility.json" in line] == [
        "not checked  utility.json: command: nothing says what it should be"
    ]


def test_what_needs_images_that_are_not_at_hand_is_named(study: Path) -> None:
    report = checked(study, "data.root=/nowhere")
    assert not lines(report)
    said = "\n".join(lines(report, Outcome.UNCHECKED))
    for key in ("fingerprint", "trained_on", "generated"):
        assert f"utility.json: {key}: there is no folder /nowhere; give --set data.root" in said
    assert "asked.json: real: 5,000 a class has no runs: whether no class has more" in said
    assert "asked.json: ratios, filters and keep: those without runs were left out if" in said
    forge(study, lambda content: content["test"].update(patients=9000))
    found = lines(checked(study, "data.root=/nowhere"))
    assert any("test.patients" in line and "found 9000" in line for line in found)


def test_a_study_of_an_earlier_version_holds(study: Path) -> None:
    forge(study, lambda content: content.pop("generator_trained_on"))
    edit_json(study / "asked.json", lambda content: content.pop("images", None))
    report = checked(study)
    assert not lines(report)
    assert (
        "not checked  utility.json: generator_trained_on: an earlier version did not write it"
        in lines(report, Outcome.UNCHECKED)
    )


def test_a_path_may_be_relative_or_lead_over_a_link(tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "vendor")
    for first, second, same in (
        (tmp_path / "link", tmp_path / "vendor", True),
        (Path("/data/vendor/a"), Path("vendor/a"), True),
        (Path("../vendor/a"), Path("/data/vendor/a"), True),
        (Path("vendor/a"), Path("/data/vendor/b"), False),
        (Path("/data/vendor/a"), Path("/data/other/a"), False),
        (Path("/a"), Path("data/vendor/a"), False),
    ):
        assert same_place(first, second) == same_place(second, first) == same, (first, second)


# -- forged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORGED)
def test_what_was_forged_is_found(name: str, study: Path) -> None:
    """Although all files that a reader opens agree with each other."""
    change, pattern = FORGED[name]
    change(study)
    found = lines(checked(study))
    assert any(re.search(pattern, line) for line in found), found


def test_runs_without_recipes_are_checked_and_named(study: Path) -> None:
    before = whole(study)
    shutil.rmtree(study / "test" / "recipes")
    report = whole(study)
    assert lines(report)[0] == (
        "differs      test/recipes/real-images-again-4-a-class-seed-0.toml: the recipe of a run of "
        "the sweep: expected a file, found none"
    )
    assert len(lines(report)) == 8
    complete = "the run is complete"
    assert str(before.content()).count(complete) == str(report.content()).count(complete) == 14


def test_a_study_is_known_by_what_is_left_of_it(study: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(study / "utility.json", tmp_path / "more")
    assert lines(whole(tmp_path / "more"))[-1] == (
        "differs      asked.json: what the study was asked for: expected a file, found none"
    )
    shutil.rmtree(study / "test")
    (study / "utility.json").unlink()
    assert lines(whole(study)) == [
        "differs      utility.json: the study is not finished: expected a file, found none"
    ]


# -- broken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_nothing_crashes(name: str, study: Path) -> None:
    change, pattern = BROKEN[name]
    change(study)
    found = lines(checked(study))
    assert any(re.search(pattern, line) for line in found), found
    assert not any("pydantic" in line or "http" in line for line in found)


def paths(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys of all values of a JSON content."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*path, key))


@pytest.mark.parametrize("name", ["utility.json", "audit.json", "asked.json"])
def test_no_value_of_another_kind_crashes(name: str, study: Path) -> None:
    text = (study / name).read_text()
    some = [path for i, path in enumerate(paths(json.loads(text))) if len(path) == 1 or i % 9 == 0]
    for i, path in enumerate(some):
        content = json.loads(text)
        *parents, last = path
        at = content
        for key in parents:
            at = at[key]
        at[last] = (None, "x", [], {}, -1, [{}], 1e400)[i % 7]
        (study / name).write_text(json.dumps(content))
        assert checked(study, "data.root=/nowhere").findings
