"""The section of a report with the figures of external test sets."""

from __future__ import annotations

from xraygan.rundir import file_readers
from xraygan.rundir.external_files import external_names
from xraygan.rundir.file_schemas import cautions
from xraygan.rundir.reader import Object, RunFiles

from .html import Html, count, join, tag
from .metric_table import metric_table
from .subgroups import subgroup_tables

EXPLAINED = (
    "The run's classifier on images of other data sets, none of which it was trained on. The "
    "figures of different data sets differ in patients, labels and how frequent a class is, and "
    "are not compared with those of the run's own images."
)


def external_section(run: RunFiles) -> dict[str, Html]:
    """The section "External", where the run was measured on external test sets."""
    read = {
        name: run.optional(f"evaluation-{name}.json", file_readers.evaluation)
        for name in external_names(run.directory)
    }
    shown = [_one(name, evaluation) for name, evaluation in read.items() if evaluation]
    return {"External": join([tag("p", EXPLAINED), *shown])} if shown else {}


def _one(name: str, evaluation: Object) -> Html:
    """The figures of one external test set."""
    words = evaluation.get("protocol", {})
    text = (
        f"Measured at step {count(evaluation.get('step'))} on {count(words.get('images'))} images "
        f"of {count(words.get('patients'))} patients. "
    )
    text += " ".join(cautions(words))
    failed = [tag("p", f"Not measured: {why}") for why in evaluation.get("failed", {}).values()]
    measured = metric_table(evaluation) if evaluation.get("metrics") else None
    return join(
        [
            tag("h3", name),
            *failed,
            tag("p", text),
            measured,
            subgroup_tables(evaluation.get("metrics", {})),
        ]
    )
