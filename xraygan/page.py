"""HTML for the report: elements that escape what they are given, numbers, a stylesheet."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

STYLE = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1a222c; --muted: #586472; --rule: #d9dfe5; --tint: #f4f6f8;
  --series: #12698c; --axis: #66717d; --grid: #e3e7eb; --notice: #8a5a00; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #12171d; --ink: #e3e8ed; --muted: #9ba7b3; --rule: #2d3640; --tint: #1a2129;
  --series: #62b6d9; --axis: #8b97a3; --grid: #28313a; --notice: #e0b45c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.5rem 2rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { margin: 0 0 .5rem; font-size: 2rem; line-height: 1.2; }
h2 { margin: 0 0 .75rem; font-size: 1.3rem; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
section { margin-top: 2.25rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
a { color: var(--series); }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1.25rem; margin-top: 1.25rem; }
code, pre { font: .875em/1.5 ui-monospace, monospace; }
pre { margin: .75rem 0 0; padding: 1rem; overflow-x: auto; background: var(--tint); }
small, footer, .muted, figcaption span { color: var(--muted); font-size: .875rem; }
footer { margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
summary { cursor: pointer; }
.notice { border-left: 3px solid var(--notice); padding: .1rem 0 .1rem 1rem; margin: 1rem 0; }
.notice ul { margin: .25rem 0; padding-left: 1.1rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem;
  margin: 1.5rem 0 0; }
dt { color: var(--muted); font-size: .875rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.scroll + .scroll { margin-top: 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide table { width: 100%; min-width: 38rem; }
th, td { padding: .4rem 1.1rem .4rem 0; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--rule); font-weight: normal; }
th:last-child, td:last-child { padding-right: 0; }
thead th, tr.group th { color: var(--muted); font-size: .875rem; vertical-align: bottom; }
tr.group th { padding-top: 1.1rem; color: var(--ink); font-size: 1rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr));
  gap: 1.5rem 2rem; }
.panels.pairs { grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
.panels.level { align-items: start; }
figure { margin: 0; display: flex; flex-direction: column; }
figcaption { margin-bottom: .35rem; line-height: 1.35; flex: 1; }
figcaption span { display: block; }
img, svg { display: block; max-width: 100%; height: auto; }
svg { width: 100%; stroke-linejoin: round; }
svg text { font-family: inherit !important; }
img { width: 100%; background: #000; }
label { display: flex; gap: .75rem; align-items: center; margin-top: .75rem; }
label[hidden] { display: none; }
input[type=range] { flex: 1; min-width: 0; accent-color: var(--series); }
.matrix td { padding: .4rem .7rem; text-align: right; min-width: 3.2rem;
  background: color-mix(in srgb, var(--series) calc(var(--share) * 60%), transparent); }
.matrix thead th { padding: .4rem .7rem; text-align: right; vertical-align: bottom; }
@media (max-width: 32rem) { body { padding: 1.5rem 1rem; } h1 { font-size: 1.6rem; } }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --muted: #444; --rule: #bbb;
    --tint: #f4f6f8; --series: #12698c; --axis: #444; --grid: #ddd; --notice: #8a5a00; }
  * { print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, label { display: none; }
  h2, h3, tr.group, figcaption { break-after: avoid; }
  tr, figure { break-inside: avoid; }
  .scroll { overflow: visible; }
  section > details pre { white-space: pre-wrap; }
  .wide table { min-width: 0; }
  .panels { grid-template-columns: repeat(3, 1fr); }
  .panels.pairs { grid-template-columns: repeat(2, 1fr); }
  section > details::details-content { content-visibility: visible; block-size: auto; } }
"""

# Without it the slider stays hidden and the last grid is shown.
SCRIPT = """
for (const label of document.querySelectorAll("label[data-frames]")) {
  const frames = document.getElementById(label.dataset.frames).children;
  const slider = label.querySelector("input");
  const show = () => [...frames].forEach((frame, i) => { frame.hidden = i !== +slider.value; });
  label.hidden = false;
  slider.addEventListener("input", show);
  show();  // a reloaded page keeps its slider where it was
}
"""

NONE = "\N{EN DASH}"  # where there is no number
VOID = frozenset({"img", "input", "meta"})


class Html(str):
    """Markup, as opposed to text that has yet to be escaped."""

    __slots__ = ()


def tag(element: str, /, *children: object, **attributes: object) -> Html:
    """An element.

    Args:
        element: its name.
        children: :class:`Html` is taken as it is, None is left out, all else is escaped text.
        attributes: ``class_`` stands for ``class`` and ``_`` for ``-``; True is a bare attribute,
            None and False are left out.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inside = join(children)
    return Html(
        f"<{element}{given}>" if element in VOID else f"<{element}{given}>{inside}</{element}>"
    )


def join(children: Iterable[object]) -> Html:
    """Elements and text, one after the other; see :func:`tag`."""
    return Html(
        "".join(c if isinstance(c, Html) else escape(str(c)) for c in children if c is not None)
    )


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Sequence[int] = (),
    wide: bool = False,
) -> Html:
    """A table that scrolls sideways where it does not fit.

    Args:
        head: the columns' titles; none for a table without them.
        rows: cells; the first names the row, and a row of one cell names those that follow.
        numbers: the columns that are aligned right.
        wide: whether it takes the page's whole width.
    """

    def cells(kind: str, values: Iterable[object], **scope: object) -> list[Html]:
        return [
            tag(kind, value, class_="number" if i in numbers else None, **scope)
            for i, value in enumerate(values)
        ]

    body = []
    for first, *others in rows:
        if head and not others:
            name = tag("th", first, scope="rowgroup", colspan=len(head))
            body.append(tag("tr", name, class_="group"))
        else:
            name = tag("th", first, scope="row")
            body.append(tag("tr", name, *cells("td", [None, *others])[1:]))
    top = tag("thead", tag("tr", *cells("th", head, scope="col"))) if head else None
    return scrolling(tag("table", top, tag("tbody", *body)), "wide" if wide else "")


def scrolling(inside: Html, *classes: str) -> Html:
    """A box that scrolls sideways, with the keyboard too."""
    return tag("div", inside, class_=" ".join(("scroll", *filter(None, classes))), tabindex=0)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and values, side by side."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))


def panel(title: str, detail: str, *inside: Html) -> Html:
    """A figure under its title and a line of detail."""
    return tag("figure", tag("figcaption", title, tag("span", detail)), *inside)


def document(title: str, body: Html) -> str:
    """A whole page that loads nothing: its policy forbids it, and any script but our own."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    page = tag("html", head, tag("body", body, tag("script", Html(SCRIPT))), lang="en")
    return f"<!doctype html>\n{page}\n"


# -- numbers ---------------------------------------------------------------------------------------


def count(value: object) -> str:
    """A whole number, its thousands apart; a dash for none."""
    return f"{value:,}" if isinstance(value, int | np.integer) else NONE


def number(value: object) -> str:
    """A measured value to about four digits; a dash for none and for what is no number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return NONE
    if isinstance(value, int):
        return count(value)
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.{1 if size >= 100 else 2 if size >= 10 else 3}f}"


def duration(seconds: float) -> str:
    """Seconds as ``1 h 02 min``, ``3 min 04 s`` or ``5.6 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def plain(value: object) -> str:
    """A value from JSON in one line."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return " ".join(map(plain, value))
    return NONE if value is None else str(value)
