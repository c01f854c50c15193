"""What can be forged or broken in the folder of a utility study, and the lines by which it is
found."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from changes import edit_json, edit_text, edit_toml

from xraygan.rundir.directory import RunDirectory
from xraygan.study.figure import draw_figure
from xraygan.study.page import html, texts

Object = dict[str, Any]
LAST = "real-plus-generated-6-a-class-seed-1"


def forge(folder: Path, change: Callable[[Object], Any]) -> None:
    """Change the results, and write all files that a reader opens anew."""
    edit_json(folder / "utility.json", change)
    content = json.loads((folder / "utility.json").read_text())
    runs = [
        SimpleNamespace(run_dir=RunDirectory(path), seed=int(path.name.rpartition("-")[2]))
        for path in sorted((folder / "test" / "runs").iterdir())
    ]
    for name, text in texts(content, cast("Any", runs)).items():
        (folder / name).write_text(text)
    picture = draw_figure(content)
    (folder / "utility.png").write_bytes(picture)
    page = html(content, picture, (folder / "audit.png").read_bytes())
    (folder / "utility.html").write_text(page)


def delete_runs(folder: Path, pattern: str) -> None:
    for kind in ("runs", "recipes"):
        found = [*folder.glob(f"*/{kind}/{pattern}*")]
        assert found
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def of(key: str, value: Any) -> tuple[Callable[[Path], Any], str]:
    """A forged figure, and the line by which it is found."""

    def change(content: Object) -> None:
        *tables, last = key.split(".")
        for table in tables:
            content = content[table]
        content[last] = value

    found = re.escape(value if isinstance(value, str) else json.dumps(value))
    text = f"{re.escape(key)}: what its runs, images and audit.json give: expected .*, found "
    return (lambda folder: forge(folder, change)), f"utility.json: {text}{found}"


def drop_seed(content: Object) -> None:
    for result in content["real"]:
        for arm in result["arms"].values():
            for figures in (arm, arm.get("difference", arm)):
                figures["seeds"].pop("1", None)


def drop_number(folder: Path) -> None:
    forge(folder, lambda content: content["real"].pop())
    edit_json(folder / "asked.json", lambda content: content["real"].remove(6))


def drop_candidate(folder: Path) -> None:
    """Also without its runs, as if there were too few images."""
    delete_runs(folder, "ratio-1-")

    def change(content: Object) -> None:
        for result in content["real"]:
            del result["tried_on_validation"]["ratio 1"]

    forge(folder, change)


def steps_of_all(folder: Path) -> None:
    forge(folder, lambda content: content.update(steps=6000))
    edit_json(folder / "asked.json", lambda content: content.update(steps=6000))
    edit_toml(folder / "base.toml", "run", "steps", 6000)


def other_folder(folder: Path) -> None:
    edit_json(folder / "asked.json", lambda content: content.update(folder="/data/vendor"))
    forge(folder, lambda content: content.update(source="folder /data/vendor"))


def of_a_run(folder: Path) -> None:
    edit_json(folder / "asked.json", lambda content: content.update(run="nothere", folder=None))
    forge(folder, lambda content: content.update(source="run nothere"))


FORGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{key: of(key, value) for key, value in {
        "generated.images": 50000, "test.patients": 9000, "steps": 6000, "batch_size": 64,
        "trained_on": 99999, "generator_trained_on": 99999, "source": "folder other",
        "fingerprint": "0" * 64, "metric": "auc/Edema",
    }.items()},
    "a seed left out": (
        lambda folder: forge(folder, drop_seed),
        r"utility.json: real\[0\].arms.real images again.seeds.1: what its runs",
    ),
    "a number of real images left out": (
        lambda folder: forge(folder, lambda content: content["real"].pop()),
        "utility.json: real: the numbers of real images that have runs: expected 4 a class, 6 a "
        "class, found 4 a class",
    ),
    "a number of real images not asked for": (
        drop_number, f"test/runs/{LAST}: a run that the results do not name: expected none",
    ),
    "a candidate left out": (
        drop_candidate, "utility.json: the results cannot be made again: choice/runs: 2 of the "
        "runs that the results need are missing",
    ),
    "neither recipes nor runs of a seed": (
        lambda folder: delete_runs(folder, LAST),
        f"test/runs: 1 of the runs that the results need are missing or not complete, {LAST} the",
    ),
    "another run": (
        lambda folder: shutil.copytree(
            folder / "test" / "runs" / LAST, folder / "test" / "runs" / "mine-seed-1"
        ),
        "test/runs/mine-seed-1: a run that the results do not name: expected none, found a run",
    ),
    "steps in all files": (
        steps_of_all, r"test/runs/.*/recipe.toml: run.steps: what asked.json and base.toml give: "
        "expected 6000, found 2",
    ),
    "steps asked for": (
        lambda folder: edit_json(folder / "asked.json", lambda content: content.update(steps=9)),
        "base.toml: run.steps: the value that asked.json asks for: expected 9, found 2",
    ),
    "options asked for": (
        lambda folder: edit_json(
            folder / "asked.json", lambda content: content.update(overrides=["run.batch_size=4"])
        ),
        "base.toml: run.batch_size: the value that asked.json asks for: expected 4, found 8",
    ),
    "images of another folder": (
        other_folder, "recipe.toml: data.generated.root: what asked.json and base.toml give: "
        "expected /data/vendor, found ",
    ),
    "images of a run": (
        of_a_run, "recipe.toml: data.generated.root: what asked.json and base.toml give: ",
    ),
    "asked for a run": (
        lambda folder: edit_json(
            folder / "asked.json", lambda content: content.update(run="nothere", folder=None)
        ),
        "utility.json: source: .*: expected run nothere, found folder ",
    ),
}  # fmt: skip


def update(name: str, **values: Any) -> Callable[[Path], Any]:
    return lambda folder: edit_json(folder / name, lambda content: content.update(values))


def tried(folder: Path) -> None:
    edit_json(
        folder / "utility.json",
        lambda content: content["real"][0].update(tried_on_validation=["x"]),
    )


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a line break in a table": (
        lambda folder: edit_text(folder / "utility.csv", "real images again", '"real\nimages"'),
        "utility.csv: line 3, 4 a class, real.nimages, arm: what its runs give: expected real "
        "images again",
    ),
    "no result": (
        update("utility.json", real=[]),
        "utility.json: real: the numbers of real images that have runs: expected 4 a class, 6 a "
        "class, found nothing",
    ),
    "results of another kind": (
        update("utility.json", real={"a": 1}), "utility.json: real: what its runs, images and",
    ),
    "candidates of another kind": (
        tried, r"utility.json: real\[0\].tried_on_validation: what its runs, images and",
    ),
    "counts of another kind": (
        update("utility.json", trained_on="many"),
        "utility.json: no study writes such a file: trained_on: expected a valid integer, found "
        "'many'",
    ),
    "a list": (
        lambda folder: (folder / "utility.json").write_text("[]"),
        "utility.json: no study writes such a file: expected a valid dictionary",
    ),
    "notes of another kind": (
        update("audit.json", notes=3),
        "audit.json: no study writes such a file: notes: expected a valid list, found 3",
    ),
    "no JSON": (
        lambda folder: (folder / "audit.json").write_text("{"),
        "audit.json: no study writes such a file: ",
    ),
    "nothing asked for": (
        lambda folder: (folder / "asked.json").write_text("{}"),
        "asked.json: no study writes such a file: run: Field required",
    ),
    "neither run nor folder": (
        update("asked.json", folder=None),
        "asked.json: no study writes such a file: expected either a run or a folder",
    ),
    "endless seeds": (
        update("asked.json", seeds=10**12),
        "asked.json: no study writes such a file: seeds: expected less than or equal to 1000",
    ),
    "no recipe": (
        lambda folder: (folder / "base.toml").unlink(),
        "base.toml: the recipe that all runs extend: expected a file, found none",
    ),
    "not finished": (
        lambda folder: (folder / "utility.json").unlink(),
        "utility.json: the study is not finished: expected a file, found none",
    ),
    "no tested runs": (
        lambda folder: shutil.rmtree(folder / "test"),
        "utility.json: the results cannot be made again: test/runs: 8 of the runs that",
    ),
}  # fmt: skip
