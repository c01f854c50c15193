"""Figures for a paper: the right numbers in the right place, and plain words otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xraygan.cli import main
from xraygan.report.paper_figures import FIGURES, write_figures
from xraygan.rundir.reader import RunFiles
from xraygan.utils.images import image_grid

CLASSES = ["Effusion", "Hernia", "<$x_1$> & more"]
SIDE, GRID = 16, 16
STEPS = [*range(10, 120, 10)]


def recipe() -> dict[str, Any]:
    return {
        "run": {"name": "tiny"},
        "data": {"plugin": "phantom", "image_size": SIDE, "label_policy": "single"},
        "generator": {"plugin": "dcgan"},
        "classifier": {"plugin": "resnet18"},
    }


def write_recipe(run: Path, without: str = "", **data: Any) -> None:
    tables = {name: table for name, table in recipe().items() if name != without}
    tables["data"] |= data
    (run / "recipe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")


def grid(path: Path, shades: list[int]) -> None:
    """A sample grid as a run writes it; each image has one shade."""
    images = torch.tensor(shades, dtype=torch.uint8)[:, None, None].expand(-1, SIDE, SIDE)
    image_grid(images).save(path)


def shades(step: int) -> list[int]:
    return [100 + 8 * latent + step // 20 for latent in range(GRID)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    write_recipe(run)
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [12, 5, 23])
    probs = random.dirichlet([1, 1, 1], size=len(truth)) + 0.4 * np.eye(3)[truth]
    probs = (probs / probs.sum(axis=1, keepdims=True)).round(1)  # with ties
    table: dict[str, Any] = {"path": [f"{i}.png" for i in range(len(truth))], "patient": truth}
    for k, name in enumerate(CLASSES):
        table |= {f"label:{name}": (truth == k).astype(int), f"p:{name}": probs[:, k]}
    pd.DataFrame(table).to_csv(run / "predictions.csv", index=False)
    with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in STEPS:
            terms = {"generator": step / 7, "mmd": -1 / step, "never": None}
            file.write(json.dumps({"step": step, "terms": terms}) + "\n")
    grid(run / "samples" / "real.png", [*range(GRID)])
    for step in STEPS:
        grid(run / "samples" / f"step-{step:08d}.png", shades(step))
    return run


def draw(run: Path, name: str) -> tuple[Figure, list[str]]:
    notes: list[str] = []
    return FIGURES[name](RunFiles(run), notes.append), notes


def classes(run: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    table = pd.read_csv(run / "predictions.csv")
    return [
        (name, table[f"label:{name}"].to_numpy(), table[f"p:{name}"].to_numpy()) for name in CLASSES
    ]


def counted(truth: np.ndarray, probs: np.ndarray) -> list[tuple[int, int]]:
    """True and false positives at every threshold, from the highest."""
    found = []
    for threshold in sorted(set(probs.tolist()), reverse=True):
        called = [t for t, p in zip(truth, probs, strict=True) if p >= threshold]
        found.append((sum(called), len(called) - sum(called)))
    return found


def in_legend(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_roc_curves_are_those_of_the_predictions(run: Path) -> None:
    figure, notes = draw(run, "roc")
    (axes,) = figure.axes
    *lines, chance = axes.get_lines()
    assert np.array_equal(chance.get_xydata(), [[0, 0], [1, 1]])
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(CLASSES)
    for line, text, (name, truth, probs) in zip(lines, in_legend(axes), classes(run), strict=False):
        wins = [(a > b) + (a == b) / 2 for a in probs[truth == 1] for b in probs[truth == 0]]
        assert text == f"{np.mean(wins):.3f}  {name}"
        n = truth.sum()
        points = {(0.0, 0.0)} | {(f / (len(truth) - n), t / n) for t, f in counted(truth, probs)}
        x, y = np.asarray(line.get_xydata()).T
        assert {(a, b) for a, b in zip(x, y, strict=True)} <= points
        assert np.diff(x) @ (y[1:] + y[:-1]) / 2 == pytest.approx(np.mean(wins))
    assert notes == []


def test_precision_recall_curves_are_those_of_the_predictions(run: Path) -> None:
    (axes,) = draw(run, "precision_recall")[0].axes
    lines = axes.get_lines()
    for i, (text, (name, truth, probs)) in enumerate(
        zip(in_legend(axes), classes(run), strict=False)
    ):
        area = before = 0.0
        for true, false in counted(truth, probs):
            recall = true / truth.sum()
            area += (recall - before) * true / (true + false)
            before = recall
        assert text == f"{area:.3f}  {name}"
        assert lines[2 * i].get_drawstyle() == "steps-post"
        recall, precision = np.asarray(lines[2 * i].get_xydata()).T
        assert -np.diff(recall) @ precision[:-1] == pytest.approx(area)  # steps, drawn leftwards
        assert np.allclose(lines[2 * i + 1].get_ydata(), truth.mean())


def test_confusion_matrix_counts_images_and_shares_of_rows(run: Path) -> None:
    (axes,) = draw(run, "confusion_matrix")[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == CLASSES
    assert [label.get_text() for label in axes.get_xticklabels()] == CLASSES
    counts = np.zeros((3, 3), dtype=int)
    labels, probs = (np.column_stack([c[i] for c in classes(run)]) for i in (1, 2))
    for truth, p in zip(labels.tolist(), probs.tolist(), strict=True):
        counts[truth.index(1), p.index(max(p))] += 1
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(shown) == 9
    for (y, x), images in np.ndenumerate(counts):
        assert shown[x, y] == f"{images}\n{images / counts[y].sum() * 100:.0f} %"


def seen(axes: Axes) -> list[list[int]]:
    """The shade at each row's and column's tick."""
    (image,) = axes.images
    pixels = np.asarray(image.get_array())
    return [[int(pixels[int(y), int(x)]) for x in axes.get_xticks()] for y in axes.get_yticks()]


def test_real_images_stand_left_of_the_newest_generated_ones(run: Path) -> None:
    (run / "samples" / "step-00000120.png").write_bytes(b"\x89PNG\r\n\x1a\n")  # being written
    figure, notes = draw(run, "real_and_generated")
    real, generated = figure.axes
    assert seen(real) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert [shade for row in seen(generated) for shade in row] == shades(110)
    assert real.get_position().x1 < generated.get_position().x0
    assert (real.get_title(), generated.get_title()) == ("real", "generated, step 110")
    assert notes == ["not by class: there is no samples/real.csv"]


@pytest.mark.parametrize("what", ["condition", "p"])
def test_images_of_a_class_share_a_row(run: Path, what: str) -> None:
    def table(name: str, what: str, of: Callable[[int], int], high: float) -> None:
        rows = [[high if of(i) == k else 0.2 for k in range(3)] for i in range(GRID)]
        columns = [f"{what}:{name}" for name in CLASSES]
        pd.DataFrame(rows, columns=columns).to_csv(run / "samples" / f"{name}.csv", index=False)

    table("real", "label", lambda i: 2 if i in (3, 5) else 0, 1)
    # The most probable class counts, however improbable.
    table("step-00000110", what, lambda i: i % 2, 0.4 if what == "p" else 1)
    figure, notes = draw(run, "real_and_generated")
    real, generated = figure.axes
    assert notes == []
    assert [label.get_text() for label in real.get_yticklabels()] == CLASSES
    white = 255
    assert seen(real) == [[0, 1, 2, 4], [white] * 4, [3, 5, white, white]]
    last = shades(110)
    assert seen(generated) == [last[0:8:2], last[1:8:2], [white] * 4]
    assert ("as the classifier predicts them" in generated.get_title()) == (what == "p")


def test_a_row_follows_one_latent_over_the_steps(run: Path) -> None:
    (axes,) = draw(run, "training_time")[0].axes
    steps = [int(label.get_text()) for label in axes.get_xticklabels()]
    assert len(steps) == 8
    assert (steps[0], steps[-1]) == (10, 110)
    assert seen(axes) == [[shades(step)[latent] for step in steps] for latent in range(6)]


def test_losses_are_those_that_were_recorded(run: Path) -> None:
    figure, notes = draw(run, "losses")
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    assert list(panels) == ["generator", "mmd"]
    assert figure.get_supxlabel() == "training step"
    for name, value in (("generator", lambda s: s / 7), ("mmd", lambda s: -1 / s)):
        (line,) = panels[name].get_lines()
        assert np.allclose(line.get_xydata(), [(step, value(step)) for step in STEPS])
    assert notes == ["without never, which never had a value"]


def test_what_a_run_has_no_data_for_is_left_out_with_the_reason(run: Path) -> None:
    def notes() -> dict[str, str]:
        lines = write_figures(run, dpi=36)[1]
        return dict(line.split(": left out: ") for line in lines if "left out" in line)

    write_recipe(run, without="generator", label_policy="multi")
    assert notes() == {
        "real_and_generated": "the run has no generator",
        "training_time": "the run has no generator",
        "confusion_matrix": "an image can have several of the classes or none",
    }
    write_recipe(run, without="classifier", image_size=20)
    (run / "metrics.jsonl").unlink()
    size = "a sample of 142 x 34 pixels is no grid of 20 x 20"
    curves = ("roc", "precision_recall", "confusion_matrix")
    assert notes() == {
        "real_and_generated": size,
        "training_time": size,
        **dict.fromkeys(curves, "the run has no classifier"),
        "losses": "there is no metrics.jsonl",
    }
    write_recipe(run)
    (run / "predictions.csv").write_text("label:a\n1\n", encoding="utf-8")
    for path in sorted((run / "samples").glob("step-*"))[1:]:
        path.unlink()
    said = notes()
    assert said["training_time"] == "there is only one sample grid that can be read"
    assert (
        said["roc"]
        == "there is no predictions.csv (cannot be read: line 1: there is no column 'p:a')"
    )
    assert not list(run.rglob(".*building"))


def test_a_class_without_positives_is_named_and_the_others_are_drawn(run: Path) -> None:
    table = pd.read_csv(run / "predictions.csv")
    table["label:Hernia"] = 0
    table.to_csv(run / "predictions.csv", index=False)
    figure, notes = draw(run, "roc")
    assert [text[7:] for text in in_legend(figure.axes[0])] == [CLASSES[0], CLASSES[2], "chance"]
    assert notes == ["without Hernia (the test split has 0 of 40 images positive)"]


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["xraygan", "figures", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_bad_input_is_one_message_and_writes_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, empty, file = run.parent, run.parent / "empty", run.parent / "file"
    empty.mkdir()
    file.touch()
    before = sorted(parent.rglob("*"))
    for words, says in (
        ([parent / "none"], "none: there is no such directory\n"),
        ([empty], "empty: not a run directory (it has no recipe.toml)\n"),
        ([run, "--out", file / "below"], "cannot be written (Not a directory)\n"),
        ([run, "--format", "bmp"], "'bmp' is not one of 'png', 'pdf', 'svg'.\n"),
        ([run, "--dpi", "0"], "0 is not in the range 36<=x<=1200.\n"),
    ):
        assert command(monkeypatch, *words) == 2
        said = capsys.readouterr().err
        assert said.endswith(says)
        assert "Traceback" not in said
    assert sorted(parent.rglob("*")) == before


def test_the_same_run_gives_the_same_files(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In another process, whatever the reader's settings of matplotlib; and torch is not needed."""
    code = (
        "import sys; from pathlib import Path; "
        "from xraygan.report.paper_figures import write_figures; "
        "[write_figures(Path(sys.argv[1]), Path(sys.argv[2]), kind, 50) "
        "for kind in ('png', 'pdf', 'svg')]; sys.exit('torch' in sys.modules)"
    )
    there = run.parent / "there"
    words = [sys.executable, "-c", code, str(run), str(there)]
    environment = os.environ | {"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "7"}
    assert subprocess.run(words, env=environment, timeout=240).returncode == 0
    with matplotlib.rc_context({"font.size": 20, "savefig.dpi": 30, "axes.facecolor": "red"}):
        for kind in ("png", "pdf", "svg"):
            assert command(monkeypatch, run, "--format", kind, "--dpi", 50) == 0
    shown = capsys.readouterr().out.splitlines()
    here = sorted((run / "figures").iterdir())
    assert [path.stem for path in here] == sorted([*FIGURES] * 3)
    assert {str(path) for path in here} <= {*shown}
    for path in here:
        content = path.read_bytes()
        assert content == (there / path.name).read_bytes(), path.name
        assert not any(stamp in content for stamp in (b"CreationDate", b"dc:date", b"Software"))
