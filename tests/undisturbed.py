"""What runs that were killed and one that was not have in common: all but times."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

TIMES = ("images_per_second", "seconds")
#: of environment.json: when and how it was run
WHEN = ("started", "command", "resumed", "finished", "thread_variables")


def outcome(folder: Path) -> dict[str, Any]:
    """Each file below a folder by its path, with what does not depend on times of its content."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and not path.name.endswith(".lock")
    }


def _content(path: Path) -> Any:
    if path.name in ("report.html", "run.log") or path.parent.name == "logs":
        return "with times"
    if path.name == "environment.json":
        found = json.loads(path.read_text())
        done = (found.get("finished") or {}).get("step")
        return {k: v for k, v in found.items() if k not in WHEN} | {"done": done}
    if path.name == "store.json":
        found = json.loads(path.read_text())
        return {k: v for k, v in found.items() if k not in ("created", "written", "seal")}
    if path.name.endswith(".digests.json"):
        return "with times"
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    if path.name == "metrics.csv":
        table = pd.read_csv(io.StringIO(path.read_text()))
        return table.drop(columns=[k for k in TIMES if k in table]).to_csv(index=False)
    return hashlib.sha256(path.read_bytes()).hexdigest()
