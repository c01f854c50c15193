"""``xraygan verify``: an untouched sweep holds, and each thing that was changed in it is found."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
from changes import (
    CHANGES,
    FIRST,
    MEASURED,
    SECOND,
    WITH_GAN,
    edit_cell,
    edit_figures,
    edit_json,
    edit_text,
    of_run,
)
from click.testing import CliRunner
from own_data import SILENT, contents, own_data

from xraygan import UserError
from xraygan.cli import cli
from xraygan.sweep import load, write_tables
from xraygan.sweep.runner import prepare_runs
from xraygan.training.engine import run as train
from xraygan.utils.csv_cells import parse_csv
from xraygan.verify.evaluation import compare_evaluations, compare_tables
from xraygan.verify.report import Outcome, Report
from xraygan.verify.values import relative
from xraygan.verify.verify import Options, find_runs, verify

GAN = {
    "generator": {"width": 4},
    "discriminator": {"width": 4},
    "scores": {"inception": {"weight": 0.0}, "gram": False, "style_transfer": False},
    "extractors": {"vgg19": False},
    "metrics": {"fid": False},
    "evaluation": {"generated": 20},
}
FILES = Options(evaluations=0)


def sweep_file(folder: Path) -> Path:
    """A sweep of two rows and two seeds, with networks that are trained in a second."""
    data = {"plugin": "csv", "root": str(folder / "data"), "image_size": 32, "only": []}
    settings = {
        "run": {"steps": 4, "batch_size": 4, "save_every": 2, "log_every": 1, "threads": 1},
        "data": data | {"classes": ["Edema", "Mass"], "cache": str(folder / "cache")},
        "classifier": {"plugin": "resnet18", "weights": "random"},
        "evaluation": {"bootstrap": 20},
    }
    sweep = {
        "title": "A small sweep",
        "recipe": "baseline_resnet50",
        "seeds": [0, 1],
        "set": settings,
        "variants": [{"name": "Real only"}, {"name": "GAN", "recipe": "ucgan_full", "set": GAN}],
        "table": {
            "metrics": ["accuracy", "auc/mean"],
            "baseline": "Real only",
            "paper": {"GAN": [0.9, float("nan")]},
        },
    }
    path = folder / "small.toml"
    path.write_text(tomli_w.dumps(sweep), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished sweep in ``out`` and its images in ``data``."""
    folder = tmp_path_factory.mktemp("verified")
    own_data(folder / "data", count=48)
    table = folder / "data" / "images.csv"
    lines = table.read_text().splitlines()
    odd = [line.replace("Mass", "Edema").replace("train", "test") for line in lines[2::6]]
    table.write_text("\n".join([*(line for line in lines if line not in lines[2::6]), *odd]) + "\n")
    rows = pd.read_csv(table)
    rows.loc[rows["split"] == "test", "label"] = ["Edema", "Mass"] * 10
    rows.to_csv(table, index=False)
    sweep = load(sweep_file(folder))
    runs = prepare_runs(sweep, folder / "out")
    for run in runs:
        train(sweep.recipe(run.row, run.seed), run.run_dir.path, display=SILENT)
    write_tables(sweep, runs, folder / "out", "xraygan sweep small.toml")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of the sweep's folder."""
    shutil.copytree(finished / "out", tmp_path / "copy")
    return tmp_path / "copy"


def checked(folder: Path, options: Options = FILES) -> Report:
    return verify(folder, options, SILENT)


def lines(report: Report, outcome: Outcome = Outcome.DIFFERS) -> list[str]:
    return [finding.line() for finding in report.findings if finding.outcome == outcome]


# -- untouched -------------------------------------------------------------------------------------


def test_an_untouched_sweep_holds_wherever_it_is(finished: Path, tmp_path: Path) -> None:
    """Moved with its images to another place, where the sweep file is not; nothing is written."""
    shutil.copytree(finished / "out", tmp_path / "elsewhere")
    shutil.copytree(finished / "data", tmp_path / "images")
    before = contents(tmp_path / "elsewhere")
    options = Options(overrides=(f"data.root={tmp_path / 'images'}",))
    report = checked(tmp_path / "elsewhere", options)
    assert not lines(report)
    held = "\n".join(lines(report, Outcome.HOLDS))
    for name in (FIRST, SECOND, WITH_GAN, "gan-seed-1"):
        assert f"runs/{name}: the images are those that the run recorded" in held
        for file in ("evaluation.json", "predictions.csv", "bootstrap.csv"):
            assert f"runs/{name}/{file}: measured again: the same values" in held
    for file in ("table.csv: 4 lines", "table.md", "table.tex", "figure.png: is the picture"):
        assert f"holds        {file}" in held
    assert {line[13:] for line in lines(report, Outcome.UNCHECKED)} == {
        ".: that training gives these networks: only training again shows it",
        ".: the losses of logs without a digest; report.html, samples/ and run.log, of which no "
        "table is made",
    }
    assert contents(tmp_path / "elsewhere") == before
    there, here = (
        {path.relative_to(folder) for path in folder.rglob("*")}
        for folder in (tmp_path / "elsewhere", finished / "out")
    )
    assert there == here  # no file of a lock either


def test_a_run_and_a_folder_of_runs_and_sweeps_can_be_verified(out: Path, tmp_path: Path) -> None:
    run = out / "runs" / FIRST
    report = checked(run)
    assert not lines(report) and "holds        .: the run is complete" in lines(
        report, Outcome.HOLDS
    )
    shutil.copytree(run, tmp_path / "more" / "mine")
    sweeps, alone = find_runs(tmp_path)
    assert (sweeps, alone) == ([out], [tmp_path / "more" / "mine"])
    held = lines(checked(tmp_path), Outcome.HOLDS)
    for name in (f"copy/runs/{FIRST}", "more/mine"):
        assert f"holds        {name}: the run is complete" in held


# -- what was changed ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_found_by_the_files_alone(name: str, out: Path) -> None:
    change, expected = CHANGES[name]
    change(out)
    found = lines(checked(out))
    for pattern in expected:
        assert any(re.search(pattern, line) for line in found), found


@pytest.mark.parametrize("name", MEASURED)
def test_what_was_changed_is_found_by_measuring_again(name: str, out: Path) -> None:
    """Also where all digests were written anew."""
    change, pattern = MEASURED[name]
    change(out)
    found = lines(checked(of_run(FIRST)(out), Options()))
    assert any(re.search(pattern, line) for line in found), found


def test_the_audit_of_a_run_is_made_again(out: Path) -> None:
    run = of_run(WITH_GAN)(out)
    audited = CliRunner().invoke(cli, ["audit", str(run), "--generated", "20", "--seed", "3"])
    assert audited.exit_code == 0, audited.output
    report = checked(run, Options())
    assert not lines(report)
    assert "holds        audit.json: made again: the same values" in lines(report, Outcome.HOLDS)
    assert any("audit.png: is the picture" in line for line in lines(report, Outcome.HOLDS))
    assert "not checked  audit.json: not measured again, as --evaluations asks" in lines(
        checked(run), Outcome.UNCHECKED
    )

    def change(content: dict[str, Any]) -> None:
        content.update(verdict="copies", says="COPIES TRAINING IMAGES: 1 of 20")
        content["copies"]["pixels"]["flagged"] += 1

    edit_json(run / "audit.json", change)
    found = lines(checked(run, Options()))
    for key in ("verdict", "copies.pixels.flagged", "says"):
        pattern = rf"audit.json: {key}: what the audit gives when it is made again: expected .*"
        assert any(re.search(pattern, line) for line in found), found
    for wrong in ({"nearest": 5}, {"nearest": [{}]}, {"protocol": {"seed": "a"}}):
        edit_json(run / "audit.json", lambda content, new=wrong: content.update(new))
        found = lines(checked(run, Options()))
        assert any("no audit writes such a file" in line for line in found), found


def test_a_changed_image_is_found(finished: Path, out: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "data", tmp_path / "images")
    shutil.copy(tmp_path / "images/images/01.png", tmp_path / "images/images/02.png")
    options = Options(0, (f"data.root={tmp_path / 'images'}",))
    report = checked(of_run(FIRST)(out), options)
    assert lines(report) == [
        "differs      .: the images that the run recorded; now: images replaced under their names: "
        "1 ('images/02.png' the first)"
    ]
    report = checked(of_run(FIRST)(out), Options(None, options.overrides))
    assert any("not measured again: it needs the images" in line
               for line in lines(report, Outcome.UNCHECKED))  # fmt: skip
    (tmp_path / "images/images/02.png").write_bytes(b"no image")
    (found,) = lines(checked(of_run(FIRST)(out), options))
    assert "the images that it records cannot be prepared" in found and "02.png" in found


# -- what was not checked --------------------------------------------------------------------------


def test_images_that_are_not_at_hand_are_not_checked(out: Path) -> None:
    report = checked(of_run(FIRST)(out), Options(None, ("data.root=/nowhere",)))
    assert not lines(report)
    said = lines(report, Outcome.UNCHECKED)
    assert any("the images: there is no folder /nowhere; give --set data.root" in s for s in said)
    assert any("evaluation.json: not measured again: it needs the images" in s for s in said)


def former(out: Path) -> None:
    """The folder as an earlier version wrote it: without digests and record."""
    (out / "sweep.json").unlink()
    (out / "table.tex").unlink()
    for run in (out / "runs").iterdir():
        edit_json(run / "evaluation.json", lambda content: content.pop("sha256"))
        edit_json(run / "environment.json", lambda content: content["finished"].pop("sha256"))


def test_a_sweep_of_an_earlier_version_holds_as_far_as_it_says(out: Path) -> None:
    former(out)
    report = checked(out)
    assert not lines(report)
    said = "\n".join(lines(report, Outcome.UNCHECKED))
    assert "sweep.json: the folder is of an earlier version" in said
    assert (
        f"runs/{FIRST}/predictions.csv: the sha256 that evaluation.json records: the run is of"
        in said
    )
    assert "table.csv: the differences from a baseline, and table.md: the folder is of an" in said
    edit_cell(out / "table.csv", 2, "mean", lambda value: value + 0.01)
    (found,) = lines(checked(out))
    assert "table.csv: line 4, GAN, accuracy, mean: what its runs give: expected 0." in found


def test_tables_of_another_version_are_compared_by_their_rows(out: Path) -> None:
    edit_text(out / "sweep.json", '"xraygan": "', '"xraygan": "0.')
    edit_text(out / "table.md", "Ours: mean", "Our mean")
    report = checked(out)
    assert not lines(report)
    (said,) = [line for line in lines(report, Outcome.UNCHECKED) if "table.md" in line]
    assert "1 lines differ from those of this version" in said
    edit_text(out / "table.md", "| GAN | ", "| GAN | 0")
    (found,) = lines(checked(out))
    assert "table.md: line 6: the line that its runs give: expected | GAN | " in found


def test_another_figure_is_left_to_the_reader(out: Path) -> None:
    (out / "figure.png").write_bytes((out / "figure.png").read_bytes() + b" ")
    (said,) = [s for s in lines(checked(out), Outcome.UNCHECKED) if "figure.png" in s]
    assert "its pixels differ from those that are drawn here" in said


def test_another_machine_and_other_versions_are_notes(out: Path) -> None:
    """Values may then differ a little, and no more."""
    run = of_run(FIRST)(out)
    edit_json(run / "environment.json", lambda c: c.update(cpu_capability="AVX9", numpy="0.1"))
    edit_cell(run / "predictions.csv", 3, "p:Mass", lambda value: value + 5e-4)
    report = checked(run, Options())
    assert not [line for line in lines(report) if "measured again" in line]
    notes = "\n".join(lines(report, Outcome.NOTE))
    assert "made with other versions: numpy 0.1, here " in notes
    assert "measured again on another machine (cpu_capability: AVX9, here " in notes
    assert "figures may differ by 0.001 and values of single images and resamples by 0.001" in notes
    assert any("predictions.csv: measured again: values differ by 5.0e-04" in line
               for line in lines(report, Outcome.HOLDS))  # fmt: skip
    report = checked(run, Options(tolerance=1e-5))
    assert any("predictions.csv: line 5, p:Mass" in line for line in lines(report))
    edit_json(run / "environment.json", lambda content: content.update(device="NVIDIA H100"))
    edit_cell(run / "predictions.csv", 3, "p:Mass", lambda value: value + 0.05)
    report = checked(run, Options())  # in bfloat16 there
    assert "by 0.02 and values of single images and resamples by 0.1" in "\n".join(
        lines(report, Outcome.NOTE)
    )
    assert not [line for line in lines(report) if "measured again" in line]
    edit_figures(out)  # by more than a tenth
    assert any("evaluation.json: metrics.accuracy.value" in line
               for line in lines(checked(run, Options())))  # fmt: skip


# -- damaged files ---------------------------------------------------------------------------------

OF_A_RUN = (
    "recipe.toml", "environment.json", "evaluation.json", "metrics.jsonl", "predictions.csv",
    "bootstrap.csv", "images.safetensors", "checkpoints/step-00000004/manifest.json",
)  # fmt: skip
OF_A_SWEEP = ("sweep.json", "table.csv", "table.md", "table.tex", f"recipes/{FIRST}.toml")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"runs/{FIRST}/{name}" for name in OF_A_RUN), *OF_A_SWEEP])
def test_a_damaged_file_is_named_whatever_it_holds(name: str, out: Path) -> None:
    """The other checks are made all the same; there is never a traceback."""
    path = out / name
    for run in (out / "runs").iterdir():
        if run.name not in (FIRST, SECOND):
            shutil.rmtree(run)
    whole = path.read_bytes()
    for content in (b"{}\n", b"\xff\x00\x01", b'{"resumed": [1]}', whole[:-9]):
        path.write_bytes(content)
        found = lines(checked(out))
        assert any(path.name in line or path.parent.name in line for line in found), content
        assert any(f"runs/{WITH_GAN}: a run of the sweep" in line for line in found) or (
            name == "sweep.json"
        )
    path.unlink()
    path.mkdir()
    report = checked(out)
    found = [*lines(report), *lines(report, Outcome.UNCHECKED)]  # a run may lack some records
    assert any(path.name in line for line in found)


# -- the comparison --------------------------------------------------------------------------------


def test_numbers_are_compared_relative_to_one_or_to_themselves() -> None:
    assert relative(0.5, 0.501) == pytest.approx(1e-3)
    assert relative(200.0, 100.0) == 0.5
    assert relative(float("nan"), float("nan")) == 0 and relative(1.0, float("nan")) == float("inf")
    old = parse_csv("path,p\na,0.5\nb,\nc,0.25\n")
    pairs, largest = compare_tables(old, parse_csv("path,p\na,0.5001\nb,\nc,0.5\n"), 1e-3)
    assert pairs == [("line 4, p", "0.5", "0.25")] and largest == pytest.approx(1e-4)
    assert compare_tables(old, parse_csv("path,p\na,0.5\n"), 1.0)[0] == [("rows", 1, 3)]
    assert compare_tables(old, parse_csv("path,q\na,0.5\n"), 1.0)[0] == [
        ("line 1", "path, q", "path, p")
    ]
    assert compare_tables(old, parse_csv("path,p\nx,0.5\nb,\nc,0.25\n"), 1.0)[0] == [
        ("line 2, path", "x", "a")
    ]


def test_a_metric_that_is_on_one_side_only_is_a_difference() -> None:
    old = {"step": 4, "metrics": {"a": {"value": 1.0, "note": "x"}, "mine": {"value": 2.0}}}
    new = {"step": 4, "metrics": {"a": {"value": 1.0, "note": "y"}, "auc": {"value": 0.5}}}
    keys = [key for key, _, _ in compare_evaluations(old, new, 0.0, {})[0]]
    assert keys == ["metrics.auc", "metrics.mine"]  # another version may word its notes otherwise
    from xraygan._version import __version__

    same = [{"xraygan": __version__, **content} for content in (old, new)]
    keys = [key for key, _, _ in compare_evaluations(*same, 0.0, {"failed": "x"})[0]]
    assert keys == ["metrics.a.note", "metrics.auc"]


# -- the command -----------------------------------------------------------------------------------


def command(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(cli, ["verify", *map(str, words)])
    if isinstance(found.exception, UserError):
        return 2, str(found.exception)
    return found.exit_code, found.output


def test_the_command_prints_a_line_for_each_finding_and_writes_json(
    out: Path, tmp_path: Path
) -> None:
    code, said = command(out, "--evaluations", 1, "--json", tmp_path / "found.json", "-q")
    assert code == 0 and "holds        " not in said
    assert said.count("evaluation.json: not measured again, as --evaluations asks") == 3
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["holds"] is True
    assert content["counts"]["differs"] == 0 and content["counts"]["holds"] > 50
    again = [f for f in content["findings"] if f["text"] == "measured again: the same values"]
    assert len(again) == 3  # evaluation.json and two tables of one run
    shutil.rmtree(of_run(FIRST)(out))
    code, said = command(out, "--evaluations", 0)
    assert code == 1
    assert f"differs      runs/{FIRST}: a run of the sweep: expected a run, found none\n" in said
    assert said.splitlines()[-1].startswith(f"{out}: something differs (")


def test_bad_input_is_refused_with_code_2(out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.json").touch()
    for words, message in (
        ((tmp_path / "nowhere",), "there is no such folder"),
        ((tmp_path / "empty",), "neither a run directory nor the folder of a sweep"),
        ((out, "--set", "run.seed=1"), "--set run.seed: a run is verified with its own recipe"),
        ((out, "--evaluations", "some"), "--evaluations some: expected all, or a number of runs"),
        ((out, "--json", tmp_path / "there.json"), "this exists already"),
        ((out, "--json", tmp_path / "no" / "x.json"), "there is no folder"),
    ):
        code, said = command(*words)
        assert code == 2 and message in said, said
