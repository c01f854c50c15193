"""Whole studies of small runs and folders."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import SMALL
from in_process import execute
from PIL import Image

from xraygan import UserError
from xraygan.cli import cli
from xraygan.data.image_splits import StoredImages
from xraygan.recipe.loading import load
from xraygan.session.session import restore_session
from xraygan.study.design import AGAIN, Options
from xraygan.study.record import Source
from xraygan.study.study import run_study
from xraygan.sweep.file import Sweep
from xraygan.sweep.plan import Run
from xraygan.training.engine import run
from xraygan.utils.progress import Display
from xraygan.utils.signals import Interrupted
from xraygan.verify.report import Outcome
from xraygan.verify.verify import Options as VerifyOptions
from xraygan.verify.verify import verify

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUIET = Display(quiet=True)
OPTIONS = Options(
    real=(12,), ratios=(0.5, 1.0), filters=("none", "confidence", "density", "distance"),
    keep=(0.5,), seeds=2, choice_seeds=1, steps=2, count=60, metric="auc/mean", extractor=None,
    arms=("real", "augmented", "before", "alone"), overrides=("run.batch_size=8",),
)  # fmt: skip


def small(*sets: str) -> list[str]:
    gan = [s for s in SMALL if not s.startswith(("generator", "discriminator", "scores"))]
    return [
        *gan, "classifier.weights=random", "run.steps=2", "data.validation=0.2",
        'data.classes=["Mass", "Edema"]', 'data.findings=["Mass", "Edema"]', "data.images=240",
        "metrics.fid=false", *sets,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a conditional generator."""
    return run(load("cgan", small()), tmp_path_factory.mktemp("gan") / "run", display=QUIET).path


@pytest.fixture(scope="module")
def studied(gan: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished study of its generator, through the command line."""
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "xraygan.sweep.run_all", lambda sweep, folder, *_, **__: execute(sweep, folder)
        )
        result = CliRunner().invoke(cli, [
            "utility", str(gan), "--real", "12", "--ratios", "0.5,1", "--seeds", "2",
            "--choice-seeds", "1", "--steps", "2", "--count", "60", "--out", str(out),
            "--set", "run.batch_size=8",
        ])  # fmt: skip
    assert result.exit_code == 0, result.output
    yield out


@pytest.mark.slow
def test_a_study_writes_what_it_found(studied: Path) -> None:
    content = json.loads((studied / "utility.json").read_text())
    [result] = content["real"]
    table = pd.read_csv(studied / "utility.csv")
    assert [*result["arms"]] == [*table["arm"]] and len(table) == 6
    for _, row in table.iterrows():
        arm = result["arms"][row["arm"]]
        assert row["mean"] == pytest.approx(np.mean([*arm["seeds"].values()]), abs=1e-6)
        if row["arm"] == AGAIN:
            assert np.isnan(row["difference"])
        else:
            again = result["arms"][AGAIN]["seeds"]
            gaps = [arm["seeds"][seed] - again[seed] for seed in ("0", "1")]
            assert row["difference"] == pytest.approx(np.mean(gaps), abs=1e-6)
        assert row["chosen"] == (row["arm"] == result["chosen"]) == (not np.isnan(row["p_holm"]))
    assert len(result["tried_on_validation"]) == 2 + 3 + 1
    text = (studied / "utility.md").read_text()
    page = (studied / "utility.html").read_text()
    for said in (result["says"], content["recommendation"], content["audit"]["says"]):
        assert said in text and said in page
    assert Image.open(studied / "utility.png").size[0] > 300
    assert (studied / "audit.png").exists()


@pytest.mark.slow
def test_nothing_is_tested_before_all_is_chosen(studied: Path) -> None:
    def protocols(name: str) -> set[tuple[str, int]]:
        runs = [*(studied / name / "runs").iterdir()]
        return {
            (json.loads((one / "evaluation.json").read_text())["protocol"]["split"],
             json.loads((one / "environment.json").read_text())["seed"] // 1000)
            for one in runs
        }  # fmt: skip

    assert protocols("choice") == {("val", 1)} and protocols("test") == {("test", 0)}


@pytest.mark.slow
def test_the_generator_makes_as_many_images_as_the_study_needs(studied: Path) -> None:
    # 12 real images of a class, at a ratio of 1, of which filters keep half
    table = pd.read_csv(studied / "generated" / "generated.csv")
    assert table["label"].value_counts().to_dict() == {"Mass": 24, "Edema": 24}
    tables = ["confidence-0.5-12-seed-1000", "density-0.5-12-seed-1000", "distance-0.5"]
    for name in tables:
        kept = pd.read_csv(studied / "filtered" / f"{name}.csv")
        assert kept["label"].value_counts().to_dict() == {"Mass": 12, "Edema": 12}
        assert set(kept["path"]) < set(table["path"])


def greys(folder: Path, paths: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / path), dtype=float) / 255 for path in paths])


@pytest.mark.slow
def test_the_filter_by_distance_keeps_the_images_far_from_training_images(
    studied: Path, gan: Path
) -> None:
    train = restore_session(gan, (), QUIET)[0].data.splits["train"].images[:].numpy() / 255
    table = pd.read_csv(studied / "generated" / "generated.csv")
    made = greys(studied / "generated", [*table["path"]])
    nearest = np.array([min(np.sqrt(((a - b) ** 2).mean()) for b in train) for a in made])
    kept = pd.read_csv(studied / "filtered" / "distance-0.5.csv").set_index("path")
    np.testing.assert_allclose(
        kept.loc[kept.index, "filter"], nearest[table["path"].isin(kept.index)], rtol=1e-4
    )
    for label in ("Mass", "Edema"):
        own = table["label"] == label
        inside = table["path"].isin(kept.index)
        assert nearest[own & inside].min() >= nearest[own & ~inside].max()


@pytest.mark.slow
def test_a_filter_reads_the_real_images_of_the_run_that_learns_from_what_it_keeps(
    gan: Path, tmp_path: Path
) -> None:
    """Those of another run would give the arm knowledge of more real images than it has."""
    few = replace(OPTIONS, ratios=(1.0,), filters=("confidence",), arms=())
    run_study(Source(run=gan), few, tmp_path / "out", QUIET, execute)
    made = pd.read_csv(tmp_path / "out" / "generated" / "generated.csv").set_index("path")
    for stage, seeds, arm in (
        ("choice", [1000], "ratio-1-confidence-50"), ("test", [0, 1], "real-plus-generated"),
    ):  # fmt: skip
        for seed in seeds:
            runs = tmp_path / "out" / stage / "runs"
            own = load(runs / f"{arm}-12-a-class-seed-{seed}" / "recipe.toml")
            table = Path(own.tables.data.generated.table)  # type: ignore[union-attr]
            assert table.name == f"confidence-0.5-12-seed-{seed}.csv"
            kept = pd.read_csv(table).set_index("path")
            again = runs / f"real-images-again-12-a-class-seed-{seed}"
            evaluation = restore_session(again, (), QUIET, measure=False)[0].evaluation()
            pixels = (greys(table.parents[1] / "generated", [*kept.index]) * 255).round()
            images = torch.from_numpy(pixels.astype(np.uint8))
            probs = evaluation.classify(StoredImages(images, torch.arange(len(images))), real=True)[
                1
            ]
            names = evaluation.task.classes
            columns = [names.index(label) for label in made.loc[kept.index, "label"]]
            np.testing.assert_allclose(
                kept["filter"], probs[np.arange(len(kept)), columns], rtol=1e-4
            )


@pytest.mark.slow
def test_classifiers_may_see_another_size_than_the_generator_makes(
    gan: Path, tmp_path: Path
) -> None:
    """All images are compared in one size."""
    overrides = (*OPTIONS.overrides, "data.image_size=24")
    few = replace(OPTIONS, ratios=(1.0,), filters=("none",), arms=(), overrides=overrides)
    run_study(Source(run=gan), few, tmp_path / "out", QUIET, execute)
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert "greys in [0, 1] of 24 x 24" in audit["protocol"]["pixels"]
    with Image.open(tmp_path / "out" / "generated" / "0-000000.png") as image:
        assert image.size == (32, 32)
    report = verify(tmp_path / "out", VerifyOptions(evaluations=1), QUIET)
    assert "holds        audit.json: made again: the same values" in [
        one.line() for one in report.findings
    ]


@pytest.mark.slow
def test_a_killed_study_continues_to_the_same_figures(
    gan: Path, studied: Path, tmp_path: Path
) -> None:
    left = [3]  # the runs of the filters are complete, the others that choose are not

    def killed(sweep: Sweep, folder: Path) -> list[Run]:
        left[0] -= 1
        if not left[0]:
            raise Interrupted(15)
        return execute(sweep, folder)

    def all_of(how: object) -> None:
        run_study(Source(run=gan), OPTIONS, tmp_path / "out", QUIET, how)  # type: ignore[arg-type]

    with pytest.raises(Interrupted):
        all_of(killed)
    assert not (tmp_path / "out" / "utility.json").exists()
    all_of(execute)
    again, before = (
        json.loads((folder / "utility.json").read_text()) for folder in (tmp_path / "out", studied)
    )
    assert again | {"command": before["command"]} == before


def test_test_images_that_the_generator_has_seen_are_refused(gan: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, overrides=("data.test_fraction=0.6",))
    with pytest.raises(UserError, match="the run was trained on"):
        run_study(Source(run=gan), options, tmp_path / "out", QUIET, execute)
    assert not (tmp_path / "out").exists()


def test_a_count_that_is_too_small_is_refused_before_images_are_generated(
    gan: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--count 5: 12 a class: .* ratio, 0\.5, takes 6"):
        run_study(Source(run=gan), replace(OPTIONS, count=5), tmp_path / "out", QUIET, execute)
    assert not (tmp_path / "out" / "generated").exists()


def test_choices_need_validation_images(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        'extends = "baseline_resnet50"\nrun = { steps = 2, batch_size = 8 }\n'
        'data = { plugin = "phantom", images = 240, image_size = 32 }\n'
        'classifier = { plugin = "resnet18", weights = "random" }\n'
    )
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "generated.csv").write_text("path,label\n")
    source = Source(folder=tmp_path / "made", recipe=str(tmp_path / "recipe.toml"))
    with pytest.raises(UserError, match="are chosen on validation images, and there are none"):
        run_study(source, replace(OPTIONS, overrides=()), tmp_path / "out", QUIET, execute)


def test_a_run_without_generator_is_refused(tmp_path: Path) -> None:
    sets = [s for s in SMALL if not s.startswith(("generator", "discriminator", "scores"))]
    sets += ["classifier.weights=random", "run.steps=1"]
    directory = run(load("baseline_resnet50", sets), tmp_path / "plain", display=QUIET).path
    with pytest.raises(UserError, match="the run has no generator"):
        run_study(Source(run=directory), OPTIONS, tmp_path / "out", QUIET, execute)


@pytest.mark.parametrize(
    ("checkpoint", "sets", "message"),
    [
        ("99", (), "there is no checkpoint '99'"),
        ("latest", ('data.classes=["Edema", "Mass"]',), "the generator of .* makes Mass, Edema"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_before_the_folder_is_taken(
    gan: Path, tmp_path: Path, checkpoint: str, sets: tuple[str, ...], message: str
) -> None:
    options = replace(OPTIONS, overrides=(*OPTIONS.overrides, *sets))
    with pytest.raises(UserError, match=message):
        run_study(Source(gan, checkpoint), options, tmp_path / "out", QUIET, execute)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("utility")
    del sys.modules["utility"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fresh", "noise", "copies", "exchanged"])
def test_the_verdict_is_right_where_the_truth_is_known(
    kind: str, benchmark: object, tmp_path: Path
) -> None:
    """The large table is in docs/utility.md."""
    verdicts, copies = benchmark.RIGHT[kind]  # type: ignore[attr-defined]
    steps = 40 if kind in ("fresh", "exchanged") else 5
    content = benchmark.study(kind, 0, tmp_path, 3, steps)  # type: ignore[attr-defined]
    assert content["real"][0]["verdict"] in verdicts
    assert (content["audit"]["verdict"] == "copies") == copies
    assert content["recommendation"].startswith("NOT RECOMMENDED") == copies
    report = verify(tmp_path / "study", VerifyOptions(evaluations=1), QUIET)
    assert "holds        audit.json: made again: the same values" in [
        one.line() for one in report.findings
    ]


def differing(folder: Path, evaluations: int = 0) -> list[str]:
    report = verify(folder, VerifyOptions(evaluations), QUIET)
    return [one.line() for one in report.findings if one.outcome is Outcome.DIFFERS]


@pytest.mark.slow
def test_a_study_verifies_also_after_it_was_moved(studied: Path, tmp_path: Path) -> None:
    """Its generator's run is not needed, nor the place where it was."""
    moved, away = tmp_path / "moved", tmp_path / "away"
    shutil.copytree(studied, moved)
    studied.rename(away)
    try:
        report = verify(moved, VerifyOptions(evaluations=1), QUIET)
    finally:
        away.rename(studied)
    found = {outcome: [f.line() for f in report.findings if f.outcome is outcome]
             for outcome in Outcome}  # fmt: skip
    assert found[Outcome.DIFFERS] == []
    held = "\n".join(found[Outcome.HOLDS])
    assert "audit.json: made again: the same values" in held
    for name in ("real-plus-generated-12-a-class-seed-0", "generated-alone-12-a-class-seed-1"):
        assert f"test/runs/{name}: the images, generated ones too, are those" in held
    assert not any("generated images" in line for line in found[Outcome.UNCHECKED])


@pytest.mark.slow
def test_an_audit_is_made_again_only_with_what_it_needs(studied: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(studied, folder, ignore=shutil.ignore_patterns("test"))

    def said() -> str:
        report = verify(tmp_path, VerifyOptions(evaluations=1), QUIET)
        return next(one.line() for one in report.findings if one.where == "study/audit.json")

    assert said() == "holds        study/audit.json: made again: the same values"
    content = json.loads((folder / "utility.json").read_text())
    (folder / "utility.json").write_text(json.dumps(content | {"fingerprint": "other"}))
    assert "cannot be made again: the images are not those of utility.json" in said()
    (folder / "generator.toml").unlink()
    assert "not checked  study/audit.json: not made again: there is no generator.toml" in said()


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    ["table", "text", "figure", "choice", "run", "audit", "whitewash", "image", "page", "picture"],
)
def test_verify_finds_what_was_edited(studied: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "study"
    shutil.copytree(studied, folder)
    content = json.loads((folder / "utility.json").read_text())
    result = content["real"][0]
    if what == "table":
        table = pd.read_csv(folder / "utility.csv")
        table.loc[3, "mean"] += 0.01
        table.to_csv(folder / "utility.csv", index=False)
        expected = "utility.csv: line 5, 12 a class, real + generated, mean"
    elif what == "text":
        text = (folder / "utility.md").read_text()
        (folder / "utility.md").write_text(text.replace(result["says"], "gain"))
        expected = "utility.md: line 5"
    elif what == "figure":
        result["arms"]["real + generated"]["value"] += 0.01
        (folder / "utility.json").write_text(json.dumps(content))
        expected = "utility.json: real[0].arms.real + generated.value"
    elif what == "choice":
        others = [name for name in result["tried_on_validation"] if "," not in name]
        worse = next(name for name in others if name != result["candidate"].partition(",")[0])
        slug = worse.replace(" ", "-")
        path = folder / "choice" / "runs" / f"{slug}-12-a-class-seed-1000" / "evaluation.json"
        evaluation = json.loads(path.read_text())
        evaluation["metrics"]["auc/mean"]["value"] = 1.0
        path.write_text(json.dumps(evaluation))
        expected = "choice/runs: 3 of the runs that the results need"  # filters at the other ratio
    elif what == "audit":  # the same verdict in all files that a reader opens
        for name in ("json", "md", "html"):
            said = (folder / f"utility.{name}").read_text()
            (folder / f"utility.{name}").write_text(said.replace(content["audit"]["says"], "none"))
        expected = "utility.json: audit.says"
    elif what == "whitewash":  # also in audit.json
        for path in (*folder.glob("utility.*"), folder / "audit.json"):
            if path.suffix != ".png":
                path.write_text(path.read_text().replace(content["audit"]["says"], "none"))
        expected = "audit.json: says: what the audit gives when it is made again"
    elif what == "image":  # a generated one
        paths = pd.read_csv(folder / "generated" / "generated.csv")["path"]
        shutil.copy(folder / "generated" / paths[1], folder / "generated" / paths[0])
        expected = "now: the generated images to learn from (data.generated)"
    elif what == "page":
        page = (folder / "utility.html").read_text()
        (folder / "utility.html").write_text(page.replace(result["says"], "gain"))
        expected = "utility.html: its first other element"
    elif what == "picture":
        shutil.copy(folder / "audit.png", folder / "utility.png")
        expected = "utility.html: its first other element"
    else:
        shutil.rmtree(folder / "test" / "runs" / "real-images-again-12-a-class-seed-1")
        expected = "test/runs/real-images-again-12-a-class-seed-1: a run of the sweep"
    found = differing(folder, evaluations=int(what == "whitewash"))
    assert any(expected in line for line in found), found
