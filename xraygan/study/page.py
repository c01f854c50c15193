"""The page, the table and the picture of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xraygan.report.html import body, document, join, png_image, table, tag, write_page
from xraygan.rundir.reader import RunFiles
from xraygan.sweep.cells import format_figure
from xraygan.sweep.plan import Run
from xraygan.sweep.provenance import FINGERPRINT, provenance
from xraygan.utils.atomic_files import write_atomically, write_together
from xraygan.utils.csv_cells import as_csv

from .design import AGAIN, ALONE, AUGMENTED, BEFORE, MIXED, REAL
from .study import Study

Object = dict[str, Any]

#: arm -> what it is
ARMS = {
    REAL: "as many real images a step as the arm with as many generated images has",
    AGAIN: "the same real images in place of the generated ones: what gains are measured against",
    AUGMENTED: "real images again, with stronger crops and flips",
    MIXED: "batches of real and generated images together",
    BEFORE: "half of the steps on generated images, then half on real ones",
    ALONE: "no real image",
}

LIMITS = (
    "The generator is one trained generator: another training of it may do better or worse.",
    "All runs have the same number of steps. Longer training may help some arms more than others.",
    "Only the chosen arm is tested. The intervals of the others are not adjusted for their number.",
)


def write_results(study: Study) -> list[Path]:
    """Write ``utility.png``, ``utility.csv``, ``utility.md`` and ``utility.html``.

    Returns:
        The paths of the files.
    """
    from .figure import draw_figure  # matplotlib takes seconds to import

    folder, content = study.folder, study.content
    picture = draw_figure(content)
    write_together({folder / "utility.png": picture})
    for name, text in texts(content, study.runs).items():
        write_atomically(folder / name, text)
    audit = (folder / "audit.png").read_bytes()
    write_page(folder / "utility.html", html(content, picture, audit), overwrite=True)
    return [folder / f"utility.{kind}" for kind in ("html", "png", "md", "csv")]


def texts(content: Object, runs: Sequence[Run]) -> dict[str, str]:
    """The content of ``utility.csv`` and of ``utility.md``.

    Args:
        content: of ``utility.json``.
        runs: those that were tested.
    """
    markdown = "\n".join(_markdown(content, runs)) + "\n"
    return {"utility.csv": as_csv(_long(content)), "utility.md": markdown}


def html(content: Object, picture: bytes, audit: bytes) -> str:
    """The content of ``utility.html``.

    Args:
        content: of ``utility.json``.
        picture, audit: the bytes of ``utility.png`` and ``audit.png``.
    """
    verdicts = tag("ul", *(tag("li", f"{r['described']}: {r['says']}") for r in content["real"]))
    header = [
        tag("h1", "Utility of generated images"),
        tag("p", tag("strong", content["recommendation"])),
        verdicts,
        tag("pre", content["command"], class_="command"),
    ]
    tables = [
        part
        for result in content["real"]
        for part in (
            tag("h3", f"Real images: {result['described']}"),
            tag("p", _chosen(result)),
            table(_head(content), [_plain(row) for row in _rows(result)], numbers=(3,)),
        )
    ]
    arms = tag("dl", *(tag("div", tag("dt", n), tag("dd", what)) for n, what in ARMS.items()))
    sections = {
        "Effect": join(
            [
                png_image(picture, "The difference of each arm, with intervals"),
                tag("p", _conditions(content)),
            ]
        ),
        "Arms": join([*tables, arms]),
        "Audit": join(
            [
                tag("p", content["audit"]["says"]),
                *(tag("p", f"Note: {note}") for note in content["audit"]["notes"]),
                png_image(audit, "Pairs of images that are most alike"),
            ]
        ),
        "Limits": tag("ul", *(tag("li", limit) for limit in LIMITS)),
    }
    return document("Utility of generated images", body(header, sections))


def _long(content: Object) -> pd.DataFrame:
    """One line for each arm and number of real images."""
    lines = []
    for result in content["real"]:
        for name, arm in result["arms"].items():
            gap = arm.get("difference", {})
            low, high = arm["interval"] or (None, None)
            gap_low, gap_high = gap.get("interval") or (None, None)
            lines.append(
                {
                    "real": result["described"], "arm": name, "metric": content["metric"],
                    "mean": arm["value"], "sd": arm["sd"], "low": low, "high": high,
                    "seeds": len(arm["seeds"]), "difference": gap.get("value"),
                    "difference_low": gap_low, "difference_high": gap_high,
                    "p_holm": arm.get("p_holm"), "detectable": arm.get("detectable"),
                    "chosen": name == result["chosen"],
                }
            )  # fmt: skip
    return pd.DataFrame(lines).round(6)


def _rows(result: Object) -> list[list[str]]:
    """The cells of a table of one number of real images."""
    rows = []
    for name, arm in result["arms"].items():
        gap, interval = arm.get("difference"), arm["interval"]
        mean = format_figure(arm["value"])
        if arm["sd"] is not None:
            mean += f" ± {format_figure(arm['sd'])}"
        if interval:
            mean += f" ({format_figure(interval[0])} to {format_figure(interval[1])})"
        difference = ""
        if gap:
            difference = f"{gap['value']:+.3f}"
            if ends := gap["interval"] or gap["patients"]:
                difference += f" ({ends[0]:+.3f} to {ends[1]:+.3f})"
        tested = f"{arm['p_holm']:.3f}" if "p_holm" in arm else ""
        rows.append([f"**{name}**" if name == result["chosen"] else name, mean, difference, tested])
    return rows


def _head(content: Object) -> list[str]:
    return ["", content["metric"], "difference from real images again", "p (Holm)"]


def _conditions(content: Object) -> str:
    test = content["test"]
    learned = "of whose training nothing is known; "
    if (count := content.get("generator_trained_on")) is not None:
        learned = f"whose generator learned from {count:,} real images; "
    return (
        f"{content['generated']['images']:,} generated images of the {content['source']}, {learned}"
        f"{content['trained_on']:,} real training images, from which each run draws its own; "
        f"{test['images']:,} test images of {test['patients']:,} patients. Every run: "
        f"{content['steps']:,} steps of {content['batch_size']}. Means are over training seeds, "
        "each with its own draw of real images, and intervals (95 %) over seeds and test patients. "
        "What is chosen was chosen on validation images, by runs of other seeds."
    )


def _markdown(content: Object, runs: Sequence[Run]) -> list[str]:
    lines = ["# Utility of generated images", "", f"**{content['recommendation']}.**", ""]
    lines += [f"- {r['described']}: {r['says']}" for r in content["real"]]
    lines += [f"- audit: {content['audit']['says']}", "", _conditions(content), ""]
    for result in content["real"]:
        lines += [f"## Real images: {result['described']}", "", _chosen(result), ""]
        head, rows = _head(content), _rows(result)
        lines += [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    lines += [f"- {name}: {what}" for name, what in ARMS.items()] + [""]
    lines += [f"- {limit}" for limit in LIMITS] + [""]
    files = [RunFiles(run.run_dir.path) for run in runs]
    # Each seed draws its own real images, so the single runs' fingerprints differ.
    known = {FINGERPRINT: content["fingerprint"]}
    seeds = sorted({run.seed for run in runs})
    return [*lines, *provenance(files, seeds, known), "```sh", content["command"], "```"]


def _chosen(result: Object) -> str:
    return (
        f"Chosen on validation images: {result['chosen']}. Together: {result['mixed']}; "
        f"first: {result['before']}."
    )


def _plain(row: list[str]) -> list[object]:
    """A Markdown row as cells of a page."""
    first = row[0].strip("*")
    return [tag("strong", first) if first != row[0] else first, *row[1:]]
