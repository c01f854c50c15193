"""What the runs of a study have in common, and in what its arms differ."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from xraygan import UserError
from xraygan.cli import cli
from xraygan.data.datamodule import prepare
from xraygan.data.image_splits import ImageSplit, StoredImages
from xraygan.recipe.loading import load, load_tree
from xraygan.study.claim import claim
from xraygan.study.design import (
    AGAIN,
    ALONE,
    AUGMENTED,
    BEFORE,
    CHOICE_SEED,
    MIXED,
    OPTIONAL,
    REAL,
    Arm,
    Design,
    Images,
    Options,
    base_recipe,
)  # fmt: skip
from xraygan.study.filters import FILTERS, NONE, Basis, FilteredImages, kept_rows
from xraygan.study.pool import Pool, needed_images
from xraygan.study.record import Source, read_asked
from xraygan.utils.progress import Display

OPTIONS = Options(
    real=(20, None), ratios=(1.0,), filters=(NONE,), keep=(0.5,), seeds=3, choice_seeds=2, steps=7,
    count=100, metric="auc/mean", extractor=None, arms=tuple(OPTIONAL),
)  # fmt: skip


@pytest.fixture
def design(tmp_path: Path) -> Design:
    recipe = base_recipe(load("cgan", ["data.plugin=phantom"]), OPTIONS)
    return Design(recipe, OPTIONS, tmp_path / "study", tmp_path / "images")


def test_a_classifier_remains_of_a_recipe_with_a_generator() -> None:
    source = load(
        "projected_ucgan", ["data.plugin=phantom", "data.limit=5", "data.unlabelled=true"]
    )
    recipe = base_recipe(source, OPTIONS)
    assert {*recipe.choices} == {"data", "classifier", "metrics.auc", "metrics.classification"}
    assert recipe.tables.run.steps == 7 and recipe.tables.data.limit is None
    assert not recipe.tables.data.unlabelled
    assert recipe.tables.classifier.weight == 1  # type: ignore[union-attr]
    options, before = (one.choices["classifier"].options for one in (recipe, source))
    assert options == before


def test_a_recipe_without_generator_keeps_its_steps_and_scores() -> None:
    sets = ["data.plugin=phantom", "scores.unlabelled_pseudo_label.weight=0.5", "run.steps=55"]
    recipe = base_recipe(load("baseline_resnet50", sets), replace(OPTIONS, steps=None))
    assert recipe.tables.run.steps == 55 and "scores.unlabelled_pseudo_label" in recipe.choices
    with_generator = base_recipe(load("cgan"), replace(OPTIONS, steps=None))
    assert with_generator.tables.run.steps == 600


def test_overrides_reach_every_run() -> None:
    sets = replace(OPTIONS, overrides=("classifier.plugin=resnet18", "run.batch_size=8"))
    recipe = base_recipe(load("cgan"), sets)
    assert recipe.choices["classifier"].part.name == "resnet18"
    assert recipe.tables.run.batch_size == 8


def test_a_recipe_without_classifier_is_refused() -> None:
    sets = ["classifier=false", "labeler=false", "schedule=false"]
    with pytest.raises(UserError, match=r"has no \[classifier\]"):
        base_recipe(load("balanced_dcgan", sets), OPTIONS)


def test_arms_differ_in_nothing_but_their_images(design: Design, tmp_path: Path) -> None:
    images = Images(tmp_path / "made.csv", 2.0)
    arms = [
        Arm(REAL), Arm(AGAIN), Arm(AUGMENTED), Arm(MIXED, images), Arm(BEFORE, images, "before"),
        Arm(ALONE, images, "instead"),
    ]  # fmt: skip
    claim(design, Source(folder=tmp_path / "images", recipe="cgan"))
    sweep = design.sweep({20: arms, None: arms[:2]}, choose=False)
    assert sweep.seeds == [0, 1, 2] and len(sweep.rows) == 8
    base = load_tree({"extends": str(design.base)}, tmp_path / "base").resolved()
    changed = {}
    for row in sweep.rows:
        tree = sweep.recipe(row, 1).resolved()
        assert tree["run"].pop("seed") == 1 and tree["run"].pop("name")
        assert {k: v for k, v in tree.items() if k not in ("run", "data")} == {
            k: v for k, v in base.items() if k not in ("run", "data")
        }
        changed[row.label] = {
            key: value
            for table in ("run", "data")
            for key, value in tree[table].items()
            if base[table].get(key) != value
        }
    batch = design.recipe.tables.run.batch_size
    generated = {"table": str(images.table), "root": str(design.root), "ratio": 2.0}
    assert changed[f"{REAL}, 20 a class"] == {"batch_size": batch // 2, "limit": 20}
    assert changed[f"{AGAIN}, 20 a class"] == {"limit": 20}
    assert {*changed[f"{AUGMENTED}, 20 a class"]} == {"augmentation", "limit"}
    for name, use in ((MIXED, "beside"), (BEFORE, "before"), (ALONE, "instead")):
        found = changed[f"{name}, 20 a class"]
        assert found["limit"] == 20 and found["generated"].items() >= generated.items()
        assert found["generated"]["use"] == use
    assert changed[f"{AGAIN}, all"] == {}


def test_runs_that_choose_have_other_seeds_and_see_no_test_image(design: Design) -> None:
    claim(design, Source(folder=design.root, recipe="cgan"))
    arms = {None: [Arm(AGAIN)]}
    choice, test = (design.sweep(arms, choose=choose) for choose in (True, False))
    assert not {*choice.seeds} & {*test.seeds} and choice.seeds[0] == CHOICE_SEED
    assert choice.recipe(choice.rows[0], 0).tables.evaluation.split == "val"
    assert test.recipe(test.rows[0], 0).tables.evaluation.split == "test"


def begin(design: Design) -> None:
    (design.stage(choose=False) / "runs" / "real-images-again-20-a-class-seed-0").mkdir(
        parents=True
    )


def test_a_folder_holds_one_study(design: Design) -> None:
    source = Source(folder=design.root, recipe="cgan")
    claim(design, source)
    begin(design)
    claim(design, source)
    for other, differs in (
        (replace(design, options=replace(OPTIONS, seeds=4)), "--seeds: 3 there, 4 requested"),
        (replace(design, options=replace(OPTIONS, real=(20,))), "--real: 20,all there, 20 request"),
        (replace(design, recipe=design.recipe.changed("run.batch_size=6")), "run.batch_size: "),
    ):
        with pytest.raises(UserError, match="it holds another study") as caught:
            claim(other, source)
        assert differs in str(caught.value)
    with pytest.raises(UserError, match=r"--table: unset there, .*other\.csv requested"):
        claim(design, replace(source, table=Path("other.csv")))
    design.base.unlink()
    with pytest.raises(UserError, match=r"base\.toml: No such file.*name a new folder"):
        claim(design, source)
    (design.folder / "asked.json").write_text("{")
    with pytest.raises(UserError, match=r"asked\.json: no study writes such a file"):
        claim(design, source)


def test_a_mistake_can_be_mended_before_anything_is_made(design: Design) -> None:
    source = Source(folder=design.root, recipe="cgan")
    claim(design, replace(source, run=design.root), generator=design.recipe)
    mended = replace(design, options=replace(OPTIONS, seeds=4))
    claim(mended, source)
    assert read_asked(design.folder) == (source, mended.options)
    assert not (design.folder / "generator.toml").exists()


def test_what_decides_no_result_may_change(
    design: Design, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device, the name of the recipe, and where the command is given."""
    monkeypatch.chdir(tmp_path)
    claim(design, Source(folder=Path("images"), recipe="cgan"))
    begin(design)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = replace(design, recipe=design.recipe.changed("run.device=cpu"))
    claim(again, Source(folder=Path("../images"), recipe="recipes/cgan.toml"))
    assert read_asked(design.folder)[0].recipe == "recipes/cgan.toml"


def test_nobody_chooses_the_metric_after_seeing_the_figures(design: Design) -> None:
    source = Source(folder=design.root, recipe="cgan")
    claim(design, source)
    begin(design)
    other = replace(design, options=replace(OPTIONS, metric="auc/Mass"))
    with pytest.raises(UserError, match="--metric: auc/mean there, auc/Mass requested"):
        claim(other, source)


def test_all_runs_of_a_study_have_the_same_images(design: Design) -> None:
    source = Source(folder=design.root, recipe="cgan")
    claim(design, source)  # a former version recorded no images
    begin(design)
    claim(design, source, images={"the real images": "a"})
    claim(design, source, images={"the real images": "a", "the generated images": "b"})
    with pytest.raises(UserError, match="the generated images are not those that its runs began"):
        claim(design, source, images={"the real images": "a", "the generated images": "c"})


def test_a_folder_of_somebody_else_is_left_alone(design: Design) -> None:
    design.folder.mkdir()
    (design.folder / "audit.json").write_text("mine")
    with pytest.raises(UserError, match="is not empty; name a new folder with --out"):
        claim(design, Source(folder=design.root, recipe="cgan"))
    assert [path.read_text() for path in design.folder.iterdir()] == ["mine"]


def test_each_run_has_images_that_a_filter_kept_for_it(
    design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def values(pool: Pool, basis: Basis, display: Display) -> np.ndarray:
        read.append((basis.run, {*basis.real.paths}))
        return np.arange(len(pool.split))

    monkeypatch.setitem(FILTERS, "confidence", values)
    monkeypatch.setitem(FILTERS, "distance", values)
    monkeypatch.setattr("xraygan.study.filters.write_filtered", lambda *_: None)
    small = design.recipe.changed("data.images=200", "data.image_size=16", "run.batch_size=8")
    design = replace(design, recipe=small)
    claim(design, Source(folder=design.root, recipe="cgan"))
    quiet = Display(quiet=True)
    filtered = FilteredImages(design, pool_of([30, 21], {4: [4, 4]}), None, quiet)  # type: ignore[arg-type]
    images = Images(Path("all.csv"), 0.5, "confidence", 0.25)
    kept = filtered.keep(images, 4, choose=False)
    assert isinstance(kept.table, dict) and [*kept.table] == [0, 1, 2]
    assert len({*kept.table.values()}) == 3 and kept.filtered == "confidence (25%)"
    [row] = design.sweep({4: [Arm(MIXED, kept)]}, choose=False).rows
    for seed, (run, real) in zip(kept.table, read, strict=True):
        recipe = design.sweep({4: [Arm(AGAIN)]}, choose=False).recipe(row, seed)
        assert recipe.tables.data.generated.table == str(kept.table[seed])  # type: ignore[union-attr]
        assert run == design.folder / "test" / "runs" / f"real-images-again-4-a-class-seed-{seed}"
        plain = prepare(design.recipe.changed("data.limit=4", f"run.seed={seed}"))
        assert real == {*plain.splits["train"].paths}
    assert len({frozenset(real) for _, real in read}) == 3
    # Training images of the generator are the same for all runs.
    of_all = filtered.keep(replace(images, filter="distance"), 4, choose=False)
    assert of_all.table == design.folder / "filtered" / "distance-0.25.csv" and len(read) == 4


def pool_of(counts: list[int], real: dict[int | None, list[int]]) -> Pool:
    labels = np.repeat(np.eye(len(counts), dtype=np.uint8), counts, axis=0)
    n = len(labels)
    split = ImageSplit(
        StoredImages(torch.zeros(n, 2, 2, dtype=torch.uint8), torch.arange(n)),
        labels, np.arange(n).astype(str), [f"{i}.png" for i in range(n)], {},
    )  # fmt: skip
    return Pool(Path("made"), Path("t.csv"), split, {k: np.array(v) for k, v in real.items()})


def test_a_ratio_needs_enough_images_of_every_class() -> None:
    pool = pool_of([30, 21], {20: [20, 20], None: [40, 10]})
    assert pool.suffices(20, 1) and not pool.suffices(20, 1.5)
    assert not pool.suffices(20, 1, kept=0.5) and pool.suffices(20, 0.5, kept=0.5)
    assert not pool.suffices(None, 1) and pool.suffices(None, 0.75)
    assert pool.largest(20, (0.25, 1, 5)) == 1 and pool.largest(20, (2, 5)) is None


def test_enough_images_are_generated_for_the_largest_ratio_and_the_strictest_filter() -> None:
    real = {20: np.array([20, 20]), None: np.array([100, 30])}
    assert needed_images(real, (0.5, 2), 1.0, 10**6).tolist() == [200, 60]
    assert needed_images(real, (0.5, 2), 0.25, 10**6).tolist() == [800, 240]
    assert needed_images(real, (0.5, 2), 0.25, 500).tolist() == [500, 240]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(-5, 5)), min_size=1, max_size=60),
    st.floats(0.05, 0.95),
)
def test_a_filter_keeps_the_best_of_each_class(
    images: list[tuple[int, float]], keep: float
) -> None:
    groups, values = np.array([g for g, _ in images]), np.array([v for _, v in images])
    labels = np.eye(3, dtype=np.uint8)[groups]
    rows = {*kept_rows(values, labels, keep).tolist()}
    for group in range(3):
        members = [i for i in range(len(groups)) if groups[i] == group]
        kept, dropped = rows & {*members}, {*members} - rows
        assert len(kept) == int(len(members) * keep)
        if kept and dropped:
            assert min(values[i] for i in kept) >= max(values[i] for i in dropped)


def test_images_with_several_labels_are_one_group() -> None:
    labels = np.array([[1, 1], [1, 0], [0, 0], [0, 1]], dtype=np.uint8)
    assert kept_rows(np.array([1.0, 3.0, 2.0, 0.0]), labels, 0.5).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a run or folders of images"),
        (["--images", "x"], "--recipe is missing"),
        (["run", "--recipe", "cgan"], "--recipe: this measures folders without a run"),
        (["--images", "x", "--recipe", "cgan", "--count", "5"], "--count: only a run has this"),
        (["--images", "x", "--recipe", "cgan", "--checkpoint", "5"], "--checkpoint: only a run"),
        (["run", "--arms", "none,alone"], "none leaves out all of them"),
        (["run", "--real", "20,some"], "'20,some': expected numbers of images, or all"),
        (["run", "--real", "0"], "expected numbers of images, or all"),
        (["run", "--ratios", "nan"], "expected numbers from 0.001 to 1000"),
        (["run", "--filters", "best"], "expected some of none, confidence, density, distance"),
        (["run", "--keep", "1"], "expected shares between 0 and 1"),
        (["run", "--seeds", "1"], "1 is not in the range"),
        (["run", "--arms", "all"], "expected some of real, augmented, before, alone"),
        (["nowhere"], "nowhere"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    result = CliRunner().invoke(cli, ["utility", *arguments])
    said = result.output + (
        str(result.exception) if isinstance(result.exception, UserError) else ""
    )
    assert result.exit_code and message in said and "Traceback" not in said
    assert [*tmp_path.iterdir()] == [tmp_path / "run"]


def test_the_command_names_the_filters_and_arms_that_there_are() -> None:
    command = sys.modules["xraygan.cli.utility"]  # its name in the package is that of the command
    assert (NONE, *FILTERS) == command.FILTERS
    assert tuple(OPTIONAL) == command.ARMS


def test_the_remedy_names_options_that_the_command_has() -> None:
    command = sys.modules["xraygan.cli.utility"]
    options = {name for one in command.utility.params for name in one.opts}
    assert {*re.findall(r"--[a-z]+", command.REMEDY)} <= options
