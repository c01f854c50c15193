"""A table of the keys in which several runs differ, and the headings of their columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from xraygan.rundir.reader import Object, RunFiles
from xraygan.utils.nested import flatten_tables

from .html import NONE, Html, count, join, table, tag
from .plots import key

Runs = Sequence[tuple[str, RunFiles]]


def run_name(i: int, name: str) -> Html:
    """The name of the i-th run after a piece of its line."""
    return tag("span", key(i), tag("span", name), class_="run")


def headings(runs: Runs) -> list[Html]:
    """The names of the runs as headings of columns."""
    return [run_name(i, name) for i, (name, _) in enumerate(runs)]


def differences(runs: Runs, trees: Sequence[Object | None], noun: str) -> Html:
    """A table of the keys whose values differ, and a folded table of all other keys.

    Values that differ from the first run's are marked.

    Args:
        trees: nested tables of each run; None for a run whose tables are not known.
        noun: a plural for the keys, for sentences.
    """
    flat = [None if tree is None else flatten_tables(tree) for tree in trees]
    known = [tree for tree in flat if tree is not None]
    keys = dict.fromkeys(name for tree in known for name in tree)
    same, differing = [], []
    for name in keys:
        texts = [as_toml(tree[name]) if name in tree else None for tree in known]
        if len(set(texts)) == 1:
            same.append((tag("code", name), tag("code", texts[0])))
            continue
        shown = [NONE if tree is None else _cell(tree, name, texts[0]) for tree in flat]
        differing.append((tag("code", name), *shown))
    title = f"{count(len(same))} {noun} are the same"
    fold = tag("details", tag("summary", title), table([], same, style="values")) if same else None
    if not differing:
        return join([tag("p", f"No {noun} differ." if known else f"No {noun} are known."), fold])
    return join([table(["Key", *headings(runs)], differing, style="wide values"), fold])


def _cell(tree: Mapping[str, Any], name: str, first: str | None) -> Html:
    """A value, marked if it differs from the first run's; a dash for an absent value."""
    text = as_toml(tree[name]) if name in tree else None
    shown = tag("code", text or NONE)
    return shown if text == first else tag("mark", shown)


def as_toml(value: Any) -> str:
    """A value nearly as a recipe holds it."""
    return json.dumps(value, ensure_ascii=False, default=str)
