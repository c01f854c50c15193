"""What can be changed in the folder of a finished sweep, and the lines by which it is found."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

from xraygan.utils.parsing import parse_toml

FIRST, SECOND, WITH_GAN = "real-only-seed-0", "real-only-seed-1", "gan-seed-0"


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, (path, old)
    path.write_text(text.replace(old, new, 1))


def edit_toml(path: Path, table: str, key: str, value: Any) -> None:
    tree = parse_toml(path.read_text())
    tree[table][key] = value
    path.write_text(tomli_w.dumps(tree))


def edit_cell(path: Path, row: int, column: str, change: Callable[[float], float]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row][column] = str(round(change(float(rows[row][column])), 6))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy_checkpoint(out: Path) -> None:
    step = "checkpoints/step-00000004"
    shutil.rmtree(out / "runs" / FIRST / step)
    shutil.copytree(out / "runs" / SECOND / step, out / "runs" / FIRST / step)


def copy_checkpoint_and_digests(out: Path) -> None:
    copy_checkpoint(out)
    run, name = out / "runs" / FIRST, "checkpoints/step-00000004/manifest.json"
    new = {name: digest(run / name)}
    edit_json(run / "evaluation.json", lambda content: content["sha256"].update(new))
    edit_json(run / "environment.json", lambda content: content["finished"]["sha256"].update(new))


def copy_run(out: Path) -> None:
    shutil.rmtree(out / "runs" / FIRST)
    shutil.copytree(out / "runs" / SECOND, out / "runs" / FIRST)


def copy_run_under_its_recipe(out: Path) -> None:
    """Also with the recipe and the seed that the folder should have."""
    recipe = (out / "runs" / FIRST / "recipe.toml").read_text()
    copy_run(out)
    (out / "runs" / FIRST / "recipe.toml").write_text(recipe)
    edit_json(out / "runs" / FIRST / "environment.json", lambda content: content.update(seed=0))


def edit_figures(out: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["metrics"]["accuracy"]["value"] += 0.125

    edit_json(out / "runs" / FIRST / "evaluation.json", change)


def edit_both_recipes(out: Path) -> None:
    for path in (out / "recipes" / f"{FIRST}.toml", out / "runs" / FIRST / "recipe.toml"):
        edit_toml(path, "run", "seed", 7)


def drop_line(out: Path) -> None:
    path = out / "runs" / FIRST / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] != 3]
    path.write_text("\n".join(kept) + "\n")


def of_run(name: str, *more: str) -> Callable[[Path], Path]:
    return lambda out: out.joinpath("runs", name, *more)


SHA = "[0-9a-f]{64}"
CHANGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "table.csv": (
        lambda out: edit_cell(out / "table.csv", 2, "mean", lambda value: value + 0.01),
        [r"table.csv: line 4, GAN, accuracy, mean: what its runs give: expected 0.\d+, found 0."],
    ),
    "table.md": (
        lambda out: edit_text(out / "table.md", "| GAN | ", "| GAN | 0"),
        [r"table.md: line 6: the line that its runs give: expected \| GAN \| 0.*found \| GAN "
         r"\| 00"],
    ),
    "table.tex": (
        lambda out: edit_text(out / "table.tex", "GAN & ", "GAN & 0"),
        [r"table.tex: line \d+: the line that its runs give: expected GAN & 0.*found GAN & 00"],
    ),
    "a checkpoint of another run": (
        copy_checkpoint,
        [
            rf"runs/{FIRST}/checkpoints/step-00000004/manifest.json: the sha256 that "
            rf"evaluation.json records: expected {SHA}, found {SHA}",
            rf"runs/{SECOND}/checkpoints/step-00000004: networks of its own: expected .* found "
            f"those of runs/{FIRST}",
        ],
    ),
    "a damaged checkpoint": (
        lambda out: of_run(FIRST, "checkpoints/step-00000002/classifier.safetensors")(
            out
        ).write_bytes(b"none"),
        [rf"runs/{FIRST}/checkpoints/step-00000002: damaged: classifier.safetensors does not"],
    ),
    "another seed": (
        lambda out: edit_toml(of_run(FIRST, "recipe.toml")(out), "run", "seed", 7),
        [
            rf"runs/{FIRST}/recipe.toml: run.seed: the value in recipes/{FIRST}.toml: expected 0, "
            "found 7",
            rf"runs/{FIRST}/recipe.toml: run.seed, as environment.json records it: expected 0",
            rf"runs/{FIRST}/recipe.toml: the sha256 that finished in environment.json records",
        ],
    ),
    "another seed in both recipes": (
        edit_both_recipes,
        [
            rf"recipes/{FIRST}.toml: run.seed, as the name of the file says: expected 0, found 7",
            rf"recipes/{FIRST}.toml: the sha256 that sweep.json records: expected {SHA}",
        ],
    ),
    "another recipe": (
        lambda out: edit_toml(of_run(FIRST, "recipe.toml")(out), "classifier", "weight", 0.5),
        [rf"runs/{FIRST}/recipe.toml: classifier.weight: the value in recipes.*expected 1.0, found "
         "0.5"],
    ),
    "evaluation.json": (
        edit_figures,
        [r"table.csv: line 2, Real only, accuracy, mean: what its runs give: expected 0.\d+"],
    ),
    "predictions.csv": (
        lambda out: edit_cell(
            of_run(FIRST, "predictions.csv")(out), 3, "p:Mass", lambda value: value / 2
        ),
        [rf"runs/{FIRST}/predictions.csv: the sha256 that evaluation.json records: expected {SHA}"],
    ),
    "bootstrap.csv": (
        lambda out: edit_cell(
            of_run(FIRST, "bootstrap.csv")(out), 3, "accuracy", lambda value: value / 2
        ),
        [rf"runs/{FIRST}/bootstrap.csv: the sha256 that evaluation.json records: expected {SHA}"],
    ),
    "a loss in metrics.jsonl": (
        lambda out: edit_text(
            of_run(FIRST, "metrics.jsonl")(out), '"classification": ', '"classification": 1'
        ),
        [rf"runs/{FIRST}/metrics.jsonl: the sha256 that finished in environment.json records"],
    ),
    "a line of metrics.jsonl": (
        drop_line,
        [rf"runs/{FIRST}/metrics.jsonl: training line 3: the lines that the recipe's log_every and "
         "steps give: expected a line of step 3, found a line of step 4"],
    ),
    "no run": (
        lambda out: shutil.rmtree(of_run(WITH_GAN)(out)),
        [
            rf"runs/{WITH_GAN}: a run of the sweep: expected a run, found none",
            r"table.csv: line 4, GAN, accuracy, mean: what its runs give: expected 0.\d+, found 0.",
        ],
    ),
    "no run and no recipe": (
        lambda out: [
            shutil.rmtree(of_run(WITH_GAN)(out)),
            (out / "recipes" / f"{WITH_GAN}.toml").unlink(),
        ],
        [
            rf"runs/{WITH_GAN}: a run of the sweep: expected a run, found none",
            rf"recipes/{WITH_GAN}.toml: the recipe of a run of the sweep: expected a file",
        ],
    ),
    "an unfinished run": (
        lambda out: of_run(FIRST, "report.html")(out).unlink(),
        [rf"runs/{FIRST}: a complete run: expected all of its results, found report.html"],
    ),
    "a run over another": (
        copy_run,
        [
            rf"runs/{FIRST}/recipe.toml: run.seed: the value in recipes/{FIRST}.toml: expected 0, "
            "found 1",
            rf"runs/{FIRST}/recipe.toml: run.name: .*expected {FIRST}, found {SECOND}",
        ],
    ),
    "a run over another under its recipe": (
        copy_run_under_its_recipe,
        [rf"runs/{SECOND}/checkpoints/step-00000004: networks of its own: .*those of runs/{FIRST}"],
    ),
    "other code": (
        lambda out: edit_json(
            of_run(FIRST, "environment.json")(out), lambda content: content.update(git="abc")
        ),
        [r"runs: revision: the same in all runs: expected one value, found .*abc in real-only"],
    ),
    "other images recorded": (
        lambda out: shutil.copy(
            of_run(FIRST, "environment.json")(out), of_run(FIRST, "images.safetensors")(out)
        ),
        [rf"runs/{FIRST}/images.safetensors: damaged"],
    ),
    "no sweep": (
        lambda out: (out / "sweep.json").write_text("{}"),
        [r"sweep.json: .*xraygan: Field required"],
    ),
}  # fmt: skip


MEASURED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "evaluation.json": (
        edit_figures,
        r"evaluation.json: metrics.accuracy.value: the value that was measured again: expected "
        r"0\.\d+, found ",
    ),
    "predictions.csv": (
        lambda out: edit_cell(
            of_run(FIRST, "predictions.csv")(out), 3, "p:Mass", lambda value: value + 1e-4
        ),
        r"predictions.csv: line 5, p:Mass: the value that was measured again: expected 0\.\d+",
    ),
    "a checkpoint with its digests": (
        copy_checkpoint_and_digests,
        r"predictions.csv: line 2, p:Edema: the value that was measured again: expected",
    ),
}
