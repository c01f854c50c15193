"""Whether a metric of one run can be compared with the same metric of another run.

The answer is from the files of the runs: ``evaluation.json``, ``recipe.toml``,
``environment.json`` and ``predictions.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from xraygan.rundir.reader import Object, RunFiles
from xraygan.utils.csv_cells import parse_csv

#: entries of the protocol that must be equal
PROTOCOL = ("name", "dataset", "split", "label_policy", "classes")

#: keys of [data] that select among or process the same images
SELECTION = frozenset(
    {
        "limit", "unlabelled", "sampling", "augmentation", "cache", "metadata", "on_bad_image",
        "value_range", "image_size", "generated",
    }
)  # fmt: skip

#: keys of [data] that say where the images are stored
LOCATIONS = frozenset({"root", "cache"})
#: keys of [data] that change the pixels of the same images
PIXELS = ("image_size", "grey")

OWN_CLASSIFIER = (
    "measured in the features of each run's own classifier, which differs between the runs; it "
    "compares images only within one run"
)


def why_not(name: str, run: RunFiles, base: RunFiles) -> str | None:
    """Why a metric of two runs cannot be compared, as a phrase; None if it can.

    Args:
        name: the metric's name in ``evaluation.json``.
    """
    metric, base_metric = _metric(name, run), _metric(name, base)
    if metric.get("value") is None or base_metric.get("value") is None:
        return None
    protocol, base_protocol = (side.evaluation.get("protocol", {}) for side in (run, base))
    for key in PROTOCOL:
        if key in protocol and key in base_protocol and protocol[key] != base_protocol[key]:
            values = f"{protocol[key]}, {base_protocol[key]} in the first"
            return f"measured by another protocol ({key}: {values})"
    if metric.get("options", {}) != base_metric.get("options", {}) and "options" in metric:
        return f"measured with other options ({metric['options']}, {base_metric.get('options')})"
    # A metric of test images needs the same images; one of generated images needs the same network
    # for its features, and as many images of the same kind.
    if _of_test_images(name, run) and _of_test_images(name, base):
        return _other_test_images(run, base)
    return _other_network(name, (run, metric), (base, base_metric)) or _other_images(
        (run, metric), (base, base_metric)
    )


def _metric(name: str, run: RunFiles) -> Object:
    return run.evaluation.get("metrics", {}).get(name) or {}


def reasons_against(name: str, runs: Sequence[RunFiles]) -> list[str | None]:
    """For each run, why a metric cannot be compared with that of the first run that has it."""
    first = next(
        (run for run in runs if _metric(name, run).get("value") is not None),
        None,
    )
    return [None if first is None else why_not(name, run, first) for run in runs]


def _of_test_images(name: str, run: RunFiles) -> bool:
    """Whether a metric was measured on the test images, not on generated images."""
    metric = _metric(name, run)
    if metric.get("network") or _own_classifier(name, metric):
        return False
    columns = run.optional("bootstrap.csv", _columns) or []
    images = run.evaluation.get("protocol", {}).get("images")
    return name in columns or metric.get("n") == images


def _other_test_images(run: RunFiles, base: RunFiles) -> str | None:
    tested, base_tested = (side.optional("predictions.csv", _tested) for side in (run, base))
    if tested is not None and base_tested is not None and not _are_same(tested, base_tested):
        return "measured on other test images, or other labels of them"
    prints = [side.evaluation.get("protocol", {}).get("images_fingerprint") for side in (run, base)]
    tables = [side.recipe.get("data", {}) for side in (run, base)]
    if all(prints):
        read_alike = all(tables[0].get(key) == tables[1].get(key) for key in PIXELS)
        if prints[0] != prints[1] and read_alike:
            return "measured on other images under the same names (their fingerprints differ)"
        return None
    same = _without(tables[0], LOCATIONS) == _without(tables[1], LOCATIONS)
    if same and _other_fingerprint(run, base):  # runs of former versions
        return "measured on images of other data under the same names (the fingerprints differ)"
    return None


def _other_fingerprint(run: RunFiles, base: RunFiles) -> bool:
    """Whether two runs used other data, not only another selection of the same data."""
    prints = [
        side.evaluation.get("protocol", {}).get("fingerprint")
        or side.environment.get("dataset", {}).get("fingerprint")
        for side in (run, base)
    ]
    tables = [side.recipe.get("data", {}) for side in (run, base)]
    limited = any("limit" in table for table in tables)
    same = _without(tables[0], SELECTION) == _without(tables[1], SELECTION)
    return all(prints) and prints[0] != prints[1] and not (same and limited)


def _other_network(
    name: str, run: tuple[RunFiles, Object], base: tuple[RunFiles, Object]
) -> str | None:
    """Why the features of two metrics are not of the same network; None if they are."""
    (files, metric), (base_files, base_metric) = run, base
    if metric.get("network") and metric["network"] == base_metric.get("network"):
        pass  # the digests of the weights are equal
    elif _own_classifier(name, metric) or _own_classifier(name, base_metric):
        return OWN_CLASSIFIER
    elif metric.get("network") or base_metric.get("network"):
        return "measured in the features of networks with other weights"
    extractor = _extractor(name, metric)
    tables = [side.recipe.get("extractors", {}).get(extractor) for side in (files, base_files)]
    if metric.get("network") and base_metric.get("network"):  # their weights are equal
        tables = [_without(table, {"weights"}) for table in tables]
    if tables[0] != tables[1]:
        return f"measured by other extractors ({tables[0]}, {tables[1]} in the first)"
    if tables[0] and tables[0].get("weights") == "random" and not metric.get("network"):
        seeds = [side.recipe.get("run", {}).get("seed") for side in (files, base_files)]
        if seeds[0] != seeds[1]:
            return f"measured by the extractor {extractor} with other random weights"
    return None


def _extractor(name: str, metric: Mapping[str, Any]) -> str:
    """The extractor in whose features a metric was measured: by its options, or by its name if a
    former version did not record them."""
    if (options := metric.get("options")) is not None:
        return str(options.get("extractor", ""))
    return name.split("/")[1] if "/" in name else ""


def _own_classifier(name: str, metric: Mapping[str, Any]) -> bool:
    """Whether a metric uses features of the run's own classifier, by its name or its note."""
    parts = re.split(r"[/_]", name)
    note = metric.get("note") or ""
    return "run's own classifier" in note or ("classifier" in parts and name != "classifier")


def _other_images(run: tuple[RunFiles, Object], base: tuple[RunFiles, Object]) -> str | None:
    """Why generated images, or the real images that they are compared with, differ in kind, number
    or size; None if they do not."""
    (files, metric), (base_files, base_metric) = run, base
    kind, base_kind = (_protocol(f).get("reference", "train") for f in (files, base_files))
    if kind != base_kind:
        return f"measured against other real images ({kind}, {base_kind} in the first)"
    for noun, read in (
        ("pixels across an image", lambda f, _: f.recipe.get("data", {}).get("image_size")),
        ("generated images", lambda f, _: _protocol(f).get("generated")),
        ("real images to compare with", lambda f, _: _reference(f)),
        ("images measured", lambda _, m: m.get("n")),
    ):
        value, base_value = read(files, metric), read(base_files, base_metric)
        if value is not None and base_value is not None and value != base_value:
            return f"measured on other numbers of {noun} ({value}, {base_value} in the first)"
    if _other_fingerprint(files, base_files):
        return "measured against other training images (the data's fingerprints differ)"
    return None


def _protocol(run: RunFiles) -> Object:
    return run.evaluation.get("protocol", {})


def _reference(run: RunFiles) -> int | None:
    """How many real images the generated images are compared with: as many, or all."""
    protocol = _protocol(run)
    images = run.environment.get("dataset", {}).get("images", {}).get("train")
    if protocol.get("reference") == "held_out":
        images = protocol.get("images")
    generated = protocol.get("generated")
    return None if images is None or generated is None else min(images, generated)


def _without(table: Object | None, keys: frozenset[str] | set[str]) -> Object | None:
    return None if table is None else {k: v for k, v in table.items() if k not in keys}


def _columns(text: str) -> list[str]:
    return [*parse_csv(text.partition("\n")[0])]


def _are_same(table: pd.DataFrame, base: pd.DataFrame) -> bool:
    """Whether two tables of tested images are equal in the columns that both have."""
    shared = [name for name in table if name in base]
    return len(table) == len(base) and table[shared].equals(base[shared])


def _tested(text: str) -> pd.DataFrame:
    """Path, patient and labels of each tested image, as text."""
    table = parse_csv(text)
    known = [name for name in ("path", "patient") if name in table]
    if not known:
        raise ValueError("no column 'path' or 'patient'")
    return table[known + [name for name in table if name.startswith("label:")]]
