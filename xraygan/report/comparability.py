"""Whether a figure of one run can be compared with the same figure of another, and if not, why.

It reads what the runs recorded: ``evaluation.json``, ``recipe.toml``, ``environment.json`` and
``predictions.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from xraygan.rundir.reader import Object, RunFiles
from xraygan.utils.csv_cells import parse_csv

#: words of a protocol that two figures must share
PROTOCOL = ("name", "dataset", "split", "label_policy", "classes")

#: keys of [data] that choose or change some of the same images
DRAWN = frozenset(
    {
        "limit", "unlabelled", "sampling", "augmentation", "cache", "metadata", "on_bad_image",
        "value_range", "image_size",
    }
)  # fmt: skip

#: keys of [data] that say where images are, not which
PLACES = frozenset({"root", "cache"})
#: keys of [data] that change the pixels of the same images
READ = ("image_size", "grey")

OWN = (
    "measured in the features of each run's own classifier, which is another network in each run; "
    "it compares images within one run"
)


def why_not(name: str, run: RunFiles, base: RunFiles) -> str | None:
    """Why a metric of two runs cannot be compared, for a reader; None if it can.

    Args:
        name: of the metric in ``evaluation.json``.
    """
    ours, theirs = _found(name, run), _found(name, base)
    if ours.get("value") is None or theirs.get("value") is None:
        return None
    about, other = (side.evaluation.get("protocol", {}) for side in (run, base))
    for key in PROTOCOL:
        if key in about and key in other and about[key] != other[key]:
            return f"measured by another protocol ({key}: {about[key]}, {other[key]} in the first)"
    if ours.get("options", {}) != theirs.get("options", {}) and "options" in ours:
        return f"measured with other options ({ours['options']}, {theirs.get('options')})"
    if _of_test_images(name, run) and _of_test_images(name, base):
        return _other_test_images(run, base)
    return _other_network(name, (run, ours), (base, theirs)) or _other_images(
        (run, ours), (base, theirs)
    )


def _found(name: str, run: RunFiles) -> Object:
    return run.evaluation.get("metrics", {}).get(name) or {}


def reasons_against(name: str, runs: Sequence[RunFiles]) -> list[str | None]:
    """For each run, why a metric cannot be compared with that of the first run that has it."""
    first = next(
        (run for run in runs if _found(name, run).get("value") is not None),
        None,
    )
    return [None if first is None else why_not(name, run, first) for run in runs]


def _of_test_images(name: str, run: RunFiles) -> bool:
    """Whether a metric was measured on the test images, not on generated ones."""
    found = _found(name, run)
    if found.get("network") or _own_classifier(name, found):
        return False
    columns = run.optional("bootstrap.csv", _columns) or []
    images = run.evaluation.get("protocol", {}).get("images")
    return name in columns or found.get("n") == images


def _other_test_images(run: RunFiles, base: RunFiles) -> str | None:
    ours, theirs = (side.optional("predictions.csv", _tested) for side in (run, base))
    if ours is not None and theirs is not None and not _are_same(ours, theirs):
        return "measured on other test images, or other labels of them"
    prints = [side.evaluation.get("protocol", {}).get("images_fingerprint") for side in (run, base)]
    tables = [side.recipe.get("data", {}) for side in (run, base)]
    if all(prints):
        read_alike = all(tables[0].get(key) == tables[1].get(key) for key in READ)
        if prints[0] != prints[1] and read_alike:
            return "measured on other images under the same names (their fingerprints differ)"
        return None
    alike = _without(tables[0], PLACES) == _without(tables[1], PLACES)
    if alike and _other_fingerprint(run, base):  # as former versions recorded it
        return "measured on images of other data under the same names (the fingerprints differ)"
    return None


def _other_fingerprint(run: RunFiles, base: RunFiles) -> bool:
    """Whether two runs had other data, and not only other draws of the same."""
    prints = [
        side.evaluation.get("protocol", {}).get("fingerprint")
        or side.environment.get("dataset", {}).get("fingerprint")
        for side in (run, base)
    ]
    tables = [side.recipe.get("data", {}) for side in (run, base)]
    drawn = any("limit" in table for table in tables)
    alike = _without(tables[0], DRAWN) == _without(tables[1], DRAWN)
    return all(prints) and prints[0] != prints[1] and not (alike and drawn)


def _other_network(
    name: str, run: tuple[RunFiles, Object], base: tuple[RunFiles, Object]
) -> str | None:
    """Why the features are not those of one network, if they are of any."""
    (files, ours), (other, theirs) = run, base
    if ours.get("network") and ours["network"] == theirs.get("network"):
        pass  # by the weights themselves, wherever they come from
    elif _own_classifier(name, ours) or _own_classifier(name, theirs):
        return OWN
    elif ours.get("network") or theirs.get("network"):
        return "measured in the features of networks with other weights"
    extractor = name.split("/")[1] if "/" in name else ""
    tables = [side.recipe.get("extractors", {}).get(extractor) for side in (files, other)]
    if all(ours.get("network") for ours in (ours, theirs)):  # the weights are known to be the same
        tables = [_without(table, {"weights"}) for table in tables]
    if tables[0] != tables[1]:
        return f"measured by other extractors ({tables[0]}, {tables[1]} in the first)"
    if tables[0] and tables[0].get("weights") == "random" and not ours.get("network"):
        seeds = [side.recipe.get("run", {}).get("seed") for side in (files, other)]
        if seeds[0] != seeds[1]:
            return f"measured by the extractor {extractor} with other random weights"
    return None


def _own_classifier(name: str, found: Mapping[str, Any]) -> bool:
    """Whether a metric is of the run's own classifier, as its name or note says."""
    parts = re.split(r"[/_]", name)
    note = found.get("note") or ""
    return "run's own classifier" in note or ("classifier" in parts and name != "classifier")


def _other_images(run: tuple[RunFiles, Object], base: tuple[RunFiles, Object]) -> str | None:
    """Why generated images, or the training images beside them, are not alike in kind."""
    (files, ours), (other, theirs) = run, base
    for what, read in (
        ("pixels across an image", lambda f, _: f.recipe.get("data", {}).get("image_size")),
        ("generated images", lambda f, _: f.evaluation.get("protocol", {}).get("generated")),
        ("training images to compare with", lambda f, _: _reference(f)),
        ("images measured", lambda _, m: m.get("n")),
    ):
        now, before = read(files, ours), read(other, theirs)
        if now is not None and before is not None and now != before:
            return f"measured on other numbers of {what} ({now}, {before} in the first)"
    if _other_fingerprint(files, other):
        return "measured against other training images (the data's fingerprints differ)"
    return None


def _reference(run: RunFiles) -> int | None:
    """How many training images a generated one is compared with: as many, if there are so many."""
    train = run.environment.get("dataset", {}).get("images", {}).get("train")
    generated = run.evaluation.get("protocol", {}).get("generated")
    return None if train is None or generated is None else min(train, generated)


def _without(table: Object | None, keys: frozenset[str] | set[str]) -> Object | None:
    return None if table is None else {k: v for k, v in table.items() if k not in keys}


def _columns(text: str) -> list[str]:
    return [*parse_csv(text.partition("\n")[0])]


def _are_same(ours: pd.DataFrame, theirs: pd.DataFrame) -> bool:
    """Whether two tables of tested images agree in the columns that both have."""
    both = [name for name in ours if name in theirs]
    return len(ours) == len(theirs) and ours[both].equals(theirs[both])


def _tested(text: str) -> pd.DataFrame:
    """Path, patient and labels of each tested image, as text."""
    table = parse_csv(text)
    known = [name for name in ("path", "patient") if name in table]
    if not known:
        raise ValueError("no column 'path' or 'patient'")
    return table[known + [name for name in table if name.startswith("label:")]]
