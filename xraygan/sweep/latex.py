"""``table.tex``: the tables of a sweep for a paper, in LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .cells import REDUCED, Cells, differences_table, figures_table
from .file import Sweep
from .provenance import provenance
from .results import Differences, Results

#: characters that LaTeX reads as commands, or that its older font encoding lacks
ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "`": r"\textasciigrave{}", "±": r"$\pm$",
    # After \\ or \midrule these would begin an argument.
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """A text as LaTeX prints it: on one line, with balanced braces, and with no command of its own.

    Characters outside ASCII are left to LaTeX, which reads UTF-8.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    escaped = "".join(ESCAPES.get(character, character) for character in line)
    # Two hyphens would become a dash; the sign of a number is a minus.
    escaped = re.sub(r"-(?=-)", "-{}", escaped)
    return re.sub(r"(?<![\w}-])-(?=\d)", "$-$", escaped)


def latex(sweep: Sweep, results: Sequence[Results], gaps: Differences, command: str) -> list[str]:
    """The lines of ``table.tex``: the figures, and the differences from the baseline.

    The origin of the figures is in comments. The preamble needs ``booktabs`` alone.

    Args:
        command: the command that repeats the sweep.
    """
    seeds = [seed for seed in sweep.seeds if any(seed in result.files for result in results)]
    done = [result.files[seed] for seed in seeds for result in results if seed in result.files]
    origin = [line.replace("**", "") for line in provenance(done, seeds) if line]
    comments = [sweep.title, *origin, f"Command: {command}", _interval(sweep)]
    lines = [_comment(line) for line in comments]
    lines += [
        _comment(r"Needs \usepackage{booktabs}."),
        *_tabular(sweep, figures_table(sweep, results)),
    ]
    if any(gaps.values()):
        text = f"Differences from {sweep.table.baseline}; * marks p below 0.05, adjusted (Holm)."
        lines += ["", _comment(text), *_tabular(sweep, differences_table(sweep, gaps))]
    return lines


def _interval(sweep: Sweep) -> str:
    """What the figures in brackets are."""
    if len(sweep.seeds) == 1:
        return "In brackets: 95 % interval over patients alone, of one seed."
    return ("Mean and standard deviation over seeds; in brackets the 95 % interval over training "
            "seeds and patients (table.md names the exceptions).")  # fmt: skip


def _comment(text: str) -> str:
    """A text as a comment, on one line whatever it holds."""
    return "% " + " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _tabular(sweep: Sweep, cells: Cells) -> list[str]:
    columns = len(cells.head)
    lines = [rf"\begin{{tabular}}{{{'l' * columns}}}", r"\toprule"]
    if sweep.reduced:
        lines.append(rf"\multicolumn{{{columns}}}{{l}}{{\textbf{{{REDUCED}}}}} \\")
    lines += [_row(cells.head), r"\midrule", *map(_row, cells.body), r"\bottomrule"]
    return [*lines, r"\end{tabular}"]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"
