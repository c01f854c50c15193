"""What is wrong with a study is said before anything is written or trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from in_process import execute
from PIL import Image

from xraygan import UserError
from xraygan.data.datamodule import prepare
from xraygan.recipe.loading import load
from xraygan.study.choice import Execute
from xraygan.study.design import Options
from xraygan.study.record import Source
from xraygan.study.study import Study, run_study
from xraygan.sweep.file import Sweep
from xraygan.sweep.plan import Run
from xraygan.sweep.runner import prepare_runs
from xraygan.utils.progress import Display

OPTIONS = Options(
    real=(12,), ratios=(1.0,), filters=("none",), keep=(0.5,), seeds=2, choice_seeds=1, steps=2,
    count=5000, metric="auc/mean", extractor=None, arms=(),
)  # fmt: skip
RECIPE = """
metrics = { auc = {} }
run = { batch_size = 8, steps = 2, threads = 1, device = "cpu", precision = "fp32" }
evaluation = { bootstrap = 20 }
classifier = { plugin = "resnet18", weights = "random" }
[data]
plugin = "phantom"
images = 240
image_size = 32
validation = 0.2
classes = ["Mass", "Edema"]
findings = ["Mass", "Edema"]
"""


class Trained(Exception):
    """Nothing was found to be wrong."""


def train(sweep: Sweep, folder: Path) -> list[Run]:
    raise Trained


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe and 30 images of each class."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(RECIPE)
    Path("made").mkdir()
    random = np.random.default_rng(0)
    for i in range(60):
        pixels = random.integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(f"made/{i}.png")
    table(range(60))


def table(rows: Sequence[int], path: str = "made/generated.csv") -> None:
    lines = [f"{i}.png,{('Mass', 'Edema')[i % 2]}\n" for i in rows]
    Path(path).write_text("path,label\n" + "".join(lines))


def study(
    options: Options = OPTIONS,
    folder: str = "made",
    table: str | None = None,
    how: Execute = train,
    out: str = "out",
) -> Study:
    source = Source(
        folder=Path(folder), table=None if table is None else Path(table), recipe="recipe.toml"
    )
    return run_study(source, options, Path(out), Display(quiet=True), how)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "acu/mean"}, "--metric acu/mean: the runs .* test images; did you mean 'auc/m"),
        ({"overrides": ("metrics.auc=false",)}, "--metric auc/mean: .*; there are none"),
        ({"extractor": "nope"}, "--extractor nope: (.|\n)*no extractor is named 'nope'"),
        ({"overrides": ("data.generated.ratio=2",)}, "--set data.generated.ratio: .* --ratios"),
        ({"overrides": ('data.generated={table="x"}',)}, "--set data.generated.table: "),
        ({"overrides": ("run.seed=2",)}, "--set run.seed: .* --seed"),
        ({"overrides": ("run.name=x",)}, "--set run.name: .* --out"),
        ({"overrides": ("run.steps=9",)}, "--set run.steps: .* --steps"),
        ({"overrides": ("data.limit=9",)}, "--set data.limit: .* --real"),
        ({"overrides": ("evaluation.split=val",)}, "--set evaluation.split: "),
        ({"seed": 2**63 - 1}, "--seed 9223372036854775807: "),
        ({"real": (2,)}, r"--real 2: \[run\] batch_size is 8, but only 4"),
        ({"ratios": (1.0, 1.0000001)}, "--ratios: two of its values are 1 "),
        ({"keep": (0.5, 0.50000001)}, "--keep: two of its values are 0.5 "),
        ({"ratios": (0.04,)}, "--ratios 0.04: 12 a class: of 12 real images of class 'Mass' this"),
        ({"ratios": (5.0,)}, "--ratios: 12 .* 5, takes 60 .* of class 'Mass', and there are 30"),
        ({"ratios": (0.25,), "arms": ("alone",)}, "--arms alone: 12 .* 6, fewer than .* 8"),
        ({"filters": ("density",), "keep": (0.1,)}, "--keep 0.1: 12 .* 3 .* 'Mass', .* takes 12"),
    ],
)  # fmt: skip
def test_options_that_cannot_work(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        study(replace(OPTIONS, **changes))  # type: ignore[arg-type]
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("folder", "listed", "message"),
    [
        ("nowhere", None, "--images nowhere: there is no such folder"),
        ("recipe.toml", None, "--images recipe.toml: this is a file; name a folder"),
        ("empty", None, "--images empty: there is no generated.csv in it.*--table"),
        ("made", "no.csv", "--table no.csv: there is no such file"),
        ("made", "header.csv", r"header.csv: no image to learn from: the table has no row"),
        ("made", "other.csv", r"other.csv: no image .*: 60 generated images without exactly one"),
        ("made", "mass.csv", "takes 12 generated images of class 'Edema', and there are 0"),
        ("made", "ruined.csv", 'Replace them, or leave them out with --set data.on_bad_image="sk'),
    ],
)
def test_images_that_cannot_be_used(folder: str, listed: str | None, message: str) -> None:
    Path("empty").mkdir()
    table([], "header.csv")
    table(range(0, 60, 2), "mass.csv")
    table(range(61), "ruined.csv")
    Path("made/60.png").write_text("no image")
    Path("other.csv").write_text(
        "path,label\n" + "".join(f"{i}.png,Mass|Edema\n" for i in range(60))
    )
    with pytest.raises(UserError, match=message):
        study(folder=folder, table=listed)
    assert not Path("out").exists()


def test_no_image_is_left() -> None:
    for i in range(60):
        Path(f"made/{i}.png").write_text("no image")
    with pytest.raises(UserError, match=r"generated.csv: none of its 60 images can be read:"):
        study(replace(OPTIONS, overrides=("data.on_bad_image=skip",)))


def test_an_advice_can_be_followed() -> None:
    """The folder is not taken by the command that gave it."""
    Path("made/0.png").write_text("no image")
    with pytest.raises(UserError, match="on_bad_image"):
        study()
    for options in (replace(OPTIONS, overrides=("data.on_bad_image=skip",)), OPTIONS):
        with pytest.raises(Trained):
            study(options)
        Image.new("L", (32, 32)).save("made/0.png")


def test_images_that_are_measured_are_refused_at_once() -> None:
    data = prepare(load("recipe.toml"))
    Path("recipe.toml").write_text(
        RECIPE.replace('"phantom"\nimages = 240', '"csv"\nroot = "real"')
        .replace('findings = ["Mass", "Edema"]', "")
    )  # fmt: skip
    Path("real").mkdir()
    lines = ["path,label,patient,split"]
    for name, split in data.splits.items():
        labels = [data.task.classes[i] for i in split.label_matrix.argmax(axis=1)]
        for i, pixels in enumerate(split.images[:].numpy()):
            Image.fromarray(pixels).save(f"real/{name}{i}.png")
            lines.append(f"{name}{i}.png,{labels[i]},{split.patients[i]},{name}")
    Path("real/images.csv").write_text("\n".join(lines))
    Path("made/7.png").write_bytes(Path("real/test0.png").read_bytes())
    with pytest.raises(UserError, match=r"1 of its images are images that will be measured, '7"):
        study()
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_finished_study_is_of_the_images_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be given again from another folder; nothing is trained."""

    def done(sweep: Sweep, folder: Path) -> list[Run]:
        runs = prepare_runs(sweep, folder)
        assert all(run.done for run in runs)
        return runs

    options = replace(OPTIONS, filters=("distance",))
    first = study(options, how=execute)
    (tmp_path / "elsewhere").mkdir()
    Path("elsewhere/recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = study(options, "../made", how=done, out="../out")
    assert again.content["real"] == first.content["real"]
    before = (tmp_path / "out" / "audit.json").read_bytes()
    Image.new("L", (32, 32)).save("../made/0.png")
    with pytest.raises(UserError, match="the generated images are not those that its runs began"):
        study(options, "../made", out="../out")
    assert (tmp_path / "out" / "audit.json").read_bytes() == before
