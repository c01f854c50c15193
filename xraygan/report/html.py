"""HTML for the report: elements that escape their text, numbers, a stylesheet, a whole page."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from xraygan.errors import UserError
from xraygan.utils.atomic_files import write_atomically

STYLE = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1a222c; --muted: #586472; --rule: #d9dfe5; --tint: #f4f6f8;
  --series: #12698c; --axis: #5d6873; --grid: #e3e7eb; --notice: #8a5a00; --mark: #fff3cf;
  --run-0: #0069a8; --run-1: #c24e00; --run-2: #00805d; --run-3: #a8437f; --run-4: #806300;
  --run-5: #3b444d; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #12171d; --ink: #e3e8ed; --muted: #9ba7b3; --rule: #2d3640; --tint: #1a2129;
  --series: #62b6d9; --axis: #93a0ac; --grid: #28313a; --notice: #e0b45c; --mark: #3a3115;
  --run-0: #58b0e6; --run-1: #f08c4a; --run-2: #3fc79e; --run-3: #e290c0; --run-4: #dcc04e;
  --run-5: #c4ccd4; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.5rem 2rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { margin: 0 0 .5rem; font-size: 2rem; line-height: 1.2; }
h2 { margin: 0 0 .75rem; font-size: 1.3rem; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
section { scroll-margin-top: 3rem; margin-top: 2.25rem; padding-top: 1.5rem;
  border-top: 1px solid var(--rule); }
a { color: var(--series); }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1.25rem; margin-top: 1.25rem; }
code, pre { font: .875em/1.5 ui-monospace, monospace; }
pre { margin: .75rem 0 0; padding: 1rem; overflow-x: auto; background: var(--tint); }
small, footer, .muted, figcaption span.detail { color: var(--muted); font-size: .875rem; }
footer { margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
summary { cursor: pointer; }
:focus-visible { outline: 2px solid var(--series); outline-offset: 2px; }
.command { margin: 1rem 0 0; padding: .6rem .8rem; white-space: pre-wrap; }
.command span { display: inline-block; max-width: 100%; }
.columns { columns: 2 20rem; margin: 0; padding: 0; list-style: none; }
.columns li { break-inside: avoid; }
.notice { border-left: 3px solid var(--notice); padding: .1rem 0 .1rem 1rem; margin: 1rem 0; }
.notice ul { margin: .25rem 0; padding-left: 1.1rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem 1.5rem;
  margin: 1.5rem 0 0; }
dt { color: var(--muted); font-size: .875rem; }
dl > div { min-width: 0; }
dl > div:last-child { grid-column: auto / span 2; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.scroll + .scroll, .scroll + .panels { margin-top: 1.5rem; }
.panels > .scroll { margin-top: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide table { width: 100%; }
mark { background: var(--mark); color: inherit; padding: .1em .3em; border-radius: .2em; }
.scroll + details { margin-top: .75rem; }
.values td { overflow-wrap: anywhere; min-width: 5.5rem; }
td:has(.intervals) { vertical-align: middle; }
.key { display: inline-block; flex: none; width: 1.75rem; height: .625rem;
  margin-right: .45rem; }
.run { display: inline-flex; align-items: baseline; min-width: 0; }
.run > span { min-width: 0; }
.n { white-space: nowrap; }
thead th.number, .number .note, .number .gap { white-space: normal; }
.gap mark { color: var(--ink); margin-right: -.3em; }
.note { min-width: 7rem; }
.intervals { width: 9rem; min-width: 9rem; }
.legend { position: sticky; top: 0; z-index: 1; margin-top: 1rem; background: var(--paper);
  border-bottom: 1px solid var(--rule); }
.legend ul { display: flex; flex-wrap: wrap; gap: .1rem 1.5rem; margin: 0; padding: .6rem 0;
  list-style: none; }
.legend + main > section:first-child { margin-top: 0; border-top: 0; }
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
.panels h3 { margin-top: 0; }
figure { margin: 0; display: flex; flex-direction: column; }
figcaption { margin-bottom: .35rem; line-height: 1.35; flex: 1; }
figcaption .detail { display: block; }
img, svg { display: block; max-width: 100%; height: auto; }
svg { width: 100%; stroke-linejoin: round; }
svg text { font-family: inherit !important; }
img { width: 100%; background: #000; }
[hidden] { display: none !important; }
.slider { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: center; margin-top: 1rem;
  padding: .6rem .9rem; background: var(--tint); border-radius: .4rem; }
.slider input { flex: 1; min-width: 10rem; height: 1.75rem; margin: 0; accent-color: var(--series);
  cursor: pointer; }
.slider output { min-width: 6.5rem; text-align: right; font-variant-numeric: tabular-nums; }
.byclass { margin-top: .5rem; }
.byclass > div { display: grid; grid-template-columns: 9rem repeat(var(--columns), 1fr);
  gap: .35rem 1.25rem; align-items: center; padding: .35rem 0; break-inside: avoid; }
.byclass > div > div { min-width: 0; }
.byclass .head { color: var(--muted); font-size: .875rem; }
.matrix td { padding: .4rem .7rem; text-align: right; min-width: 3.2rem;
  background: color-mix(in srgb, var(--series) calc(var(--share) * 45%), transparent); }
.matrix thead th { padding: .4rem .7rem; text-align: right; vertical-align: bottom; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem; }
  h1 { font-size: 1.6rem; }
  dl { grid-template-columns: repeat(2, 1fr); }
  .legend { position: static; }
  .slider output { margin-left: auto; }
  .slider input { order: 1; flex-basis: 100%; }
  .metrics thead { display: none; }
  .metrics tr { display: grid; grid-template-columns: 1fr auto; column-gap: 1rem; padding: .5rem 0;
    border-bottom: 1px solid var(--rule); }
  .metrics th, .metrics td { padding: 0; border: 0; grid-column: 2; }
  .metrics th { grid-column: 1; grid-row: 1; }
  .metrics tr.group th { grid-column: 1 / -1; padding-top: .5rem; }
  .metrics td:nth-of-type(n + 2) { color: var(--muted); font-size: .875rem; }
  .metrics td:nth-of-type(3)::before { content: "n "; }
  .metrics td:nth-of-type(4) { grid-column: 1; grid-row: 2 / 4; }
  .byclass > div { grid-template-columns: 1fr; padding: .6rem 0; }
  .byclass > .head { display: none; }
  .byclass [data-label]::before { content: attr(data-label); display: block; color: var(--muted);
    font-size: .875rem; } }
@page { margin: 16mm 14mm; }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --muted: #444; --rule: #bbb;
    --tint: #f4f6f8; --series: #12698c; --axis: #444; --grid: #ddd; --notice: #8a5a00;
    --mark: #fff3cf; --run-0: #0069a8; --run-1: #c24e00; --run-2: #00805d; --run-3: #a8437f;
    --run-4: #806300; --run-5: #3b444d; }
  * { print-color-adjust: exact; }
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; font-size: 1rem; }
  section { margin-top: 1.25rem; padding-top: 1rem; }
  nav, .slider { display: none !important; }
  .legend { position: static; }
  h2, h3, tr.group, figcaption, section > p, .head { break-after: avoid; }
  tr, figure { break-inside: avoid; }
  .scroll { overflow: visible; }
  th, td { padding-block: .2rem; }
  .printed pre { columns: 3; font-size: 6.5pt; white-space: pre-wrap; }
  .panels { grid-template-columns: repeat(3, 1fr); gap: 1rem 1.5rem; }
  .panels.pairs { grid-template-columns: repeat(2, 1fr); }
  .gallery .panels { display: flex; flex-wrap: wrap; }
  .gallery .panels > figure { width: calc(50% - .75rem); }
  .frames { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem 1rem; width: 100%; }
  .frames > [hidden] { display: block !important; }
  .printed::details-content { content-visibility: visible; block-size: auto; } }
"""

# Without the script the slider stays hidden and the last grid is shown.
SCRIPT = """
for (const slider of document.querySelectorAll("input[data-steps]")) {
  const steps = slider.dataset.steps.split(" ").map(Number);
  const label = slider.closest("label");
  const runs = slider.closest(".gallery").querySelectorAll(".frames");
  const show = () => {
    const step = steps[slider.value];
    for (const run of runs) {
      const grids = [...run.children];
      const newest = grids.filter((grid) => +grid.dataset.step <= step).pop() ?? grids[0];
      for (const grid of grids) grid.hidden = grid !== newest;
    }
    const says = `step ${step.toLocaleString("en")}`;
    label.querySelector("output").textContent = says;
    slider.setAttribute("aria-valuetext", says);
  };
  label.hidden = false;
  slider.addEventListener("input", show);
  show();  // a reloaded page keeps its slider where it was
}
"""

MADE_BY = "xraygan report"  # in the page's head; see write_page
NONE = "\N{EN DASH}"  # where there is no number
VOID = frozenset({"img", "input", "meta"})


class Html(str):
    """Markup; other strings are text that must be escaped."""

    __slots__ = ()


def tag(element: str, /, *children: object, **attributes: object) -> Html:
    """An element.

    Args:
        element: its name.
        children: :class:`Html` is inserted unchanged, None is left out, other values are escaped.
        attributes: ``class_`` stands for ``class`` and ``_`` for ``-``; True is a bare attribute,
            None and False are left out.
    """
    text = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inside = join(children)
    return Html(
        f"<{element}{text}>" if element in VOID else f"<{element}{text}>{inside}</{element}>"
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
    style: str = "",
) -> Html:
    """A table that scrolls sideways if it does not fit.

    Args:
        head: titles of the columns; empty for a table without titles.
        rows: cells; the first names the row. A row of one cell is the heading of the rows below it.
        numbers: columns that are aligned right.
        style: classes of its box: ``wide`` fills the page's width, ``values`` breaks long values,
            ``metrics`` folds its columns on a narrow screen.
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
    return scrolling(tag("table", top, tag("tbody", *body)), style)


def scrolling(inside: Html, *classes: str) -> Html:
    """A box that scrolls sideways, also with the keyboard."""
    return tag("div", inside, class_=" ".join(("scroll", *filter(None, classes))), tabindex=0)


def png_image(content: bytes, alt: str, **attributes: object) -> Html:
    """A PNG file as an image that is part of the page."""
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return tag("img", src=source, alt=alt, **attributes)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and values, side by side."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))


def panel(title: object, detail: str, *inside: Html) -> Html:
    """A figure under its title and a line of detail."""
    return tag("figure", tag("figcaption", title, tag("span", detail, class_="detail")), *inside)


def body(
    header: Sequence[object], sections: Mapping[str, Html], legend: Html | None = None
) -> Html:
    """The content of a page: header, links to the sections, and the sections with their titles.

    Args:
        legend: the colours of the runs; it stays visible while the page scrolls.
    """
    links = [tag("a", title, href=f"#{title.lower()}") for title in sections]
    main = [
        tag("section", tag("h2", title), content, id=title.lower())
        for title, content in sections.items()
    ]
    footer = tag("footer", "Research software, not a diagnostic device.")
    return join([tag("header", *header), tag("nav", *links), legend, tag("main", *main), footer])


def document(title: str, inside: Html) -> str:
    """A whole page; its security policy forbids it to load anything or to run other scripts."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="generator", content=MADE_BY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    page = tag("html", head, tag("body", inside, tag("script", Html(SCRIPT))), lang="en")
    return f"<!doctype html>\n{page}\n"


def write_page(path: Path, page: str, *, overwrite: bool = False) -> Path:
    """Write a page; a page that exists is replaced.

    Args:
        overwrite: replace any other file too, since the toolkit alone uses this name.

    Returns:
        The path.

    Raises:
        UserError: the page cannot be written, or another file exists under its name.
    """
    try:
        if not overwrite and path.exists() and not _is_page(path):
            raise UserError(
                f"{path}: already exists and is not a page of `{MADE_BY}`; name another --out FILE"
            )
        write_atomically(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return path


def _is_page(path: Path) -> bool:
    """Whether a file begins as :func:`document` does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return tag("meta", name="generator", content=MADE_BY).encode() in file.read(1000)


# -- numbers ---------------------------------------------------------------------------------------


def count(value: object) -> str:
    """A whole number with separated thousands; a dash for None."""
    return f"{value:,}" if isinstance(value, int | np.integer) else NONE


def number(value: object) -> str:
    """A measured value with about four digits; a dash for None and for values not finite."""
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
    minutes, remainder = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {remainder:02d} s"


def one_line(value: object) -> str:
    """A value from JSON in one line."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {one_line(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return " ".join(map(one_line, value))
    return NONE if value is None else str(value)
