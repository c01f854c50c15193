"""A run directory made by hand, small and whole: what the pages about runs are tested on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
from PIL import Image

HOSTILE = '<script>alert("$x_1$")</script>'
CLASSES = ["Effusion", "Hernia", HOSTILE, "Absent/never"]
TERMS = ["generator", "discriminator", "classification", "pseudo_label", "mmd", "style_transfer"]
METRICS = {
    **{f"auc/{name}": {"value": 0.91, "n": 6, "interval": [0.88, 0.94]} for name in CLASSES},
    "accuracy": {"value": 0.8333, "n": 6, "interval": [0.5, 1.0], "note": "argmax"},
    "confusion_matrix": {"value": [[2, 0], [1, 3]], "n": 6, "interval": None, "note": ""},
    "fid": {"value": None, "n": 0, "interval": None, "note": f"skipped: {HOSTILE}"},
    "mine": {"value": float("nan"), "n": 6, "interval": None, "note": "of another's plugin"},
}
FILES = [
    "recipe.toml",
    "environment.json",
    "metrics.jsonl",
    "evaluation.json",
    "predictions.csv",
    "samples/real.png",
    "run.log",
]
STEPS = range(100, 1600, 100)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def recipe() -> dict[str, Any]:
    return {
        "run": {"name": "tiny", "seed": 7, "steps": 3000, "batch_size": 4},
        "data": {"plugin": "phantom", "classes": CLASSES, "image_size": 16},
        "generator": {"plugin": "dcgan", "weight": 1.0},
        "discriminator": {"plugin": "dcgan", "weight": 1.0},
        "classifier": {"plugin": "resnet18", "weight": 2.0},
        "objective": {"plugin": "minmax"},
        "labeler": {"plugin": "threshold", "weight": 0.5, "trains": ["classifier"]},
        "scores": {
            "mmd": {"weight": 0.25, "trains": ["generator", "classifier"]},
            "style_transfer": {"weight": 1e-4},
        },
    }


def make(directory: Path) -> Path:
    """A run of 1500 of 3000 steps that has every file."""
    (directory / "samples").mkdir(parents=True)
    (directory / "recipe.toml").write_text(tomli_w.dumps(recipe()), encoding="utf-8")
    counts = dict.fromkeys(CLASSES, 2)
    data = {
        "plugin": "phantom",
        "fingerprint": "f00d",
        "images": {"train": 1234, "test": 6},
        "patients": {"train": 56, "test": 3},
        "classes": {"train": counts, "test": counts},
    }
    write_json(directory / "environment.json", {"torch": "9.8.7", "git": None, "dataset": data})
    with (directory / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in STEPS:
            terms = {name: None if name == "style_transfer" else 1 / step for name in TERMS}
            line = {"step": step, "progress": step / 3000, "terms": terms}
            line |= {"records": {"pseudo_label_kept": 0.5}, "seconds": step % 800}
            file.write(json.dumps(line | {"images_per_second": 80.25}) + "\n")
        file.write(json.dumps({"step": 1500, "evaluation": {"accuracy": 0.5}}) + "\n")
        file.write('{"step": 1600, "pro')  # cut short by a crash
    protocol = {"split": "test", "images": 6, "patients": 3, "generated": 10, "bootstrap": 1000}
    evaluation = {"step": 1500, "protocol": protocol | {"unit": "patient"}, "metrics": METRICS}
    write_json(directory / "evaluation.json", evaluation)
    predictions(directory, truth=[0, 0, 1, 1, 2, 2], predicted=[0, 0, 1, 2, 2, 2])
    samples(directory)
    resamples = np.linspace(0.6, 0.8, 101)
    pd.DataFrame({"accuracy": resamples}).to_csv(directory / "bootstrap.csv", index=False)
    log = f"2025 INFO training\n2025 WARNING skipped {HOSTILE}\n"
    (directory / "run.log").write_text(log, encoding="utf-8")
    return directory


def predictions(directory: Path, truth: list[int], predicted: list[int]) -> None:
    table: dict[str, Any] = {"path": ["a.png"] * len(truth), "patient": ["1"] * len(truth)}
    for k, name in enumerate(CLASSES):
        table[f"label:{name}"] = [int(t == k) for t in truth]
        table[f"p:{name}"] = [0.7 if p == k else 0.1 for p in predicted]
    pd.DataFrame(table).to_csv(directory / "predictions.csv", index=False)


def samples(directory: Path) -> None:
    """Grids of three by two images; of each, one is of each class."""
    for i, step in enumerate([0, *STEPS]):
        name, what = (f"step-{step:08d}", "p") if step else ("real", "label")
        grid = np.full((34, 52), 10 * i, dtype=np.uint8)
        Image.fromarray(grid).save(directory / "samples" / f"{name}.png")
        kept = np.eye(6, 4)[np.arange(6) % 4] * 0.9
        table = pd.DataFrame(kept if step else kept.round(), columns=CLASSES)
        table.add_prefix(f"{what}:").to_csv(directory / "samples" / f"{name}.csv", index=False)
