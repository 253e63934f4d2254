"""Tables of the commands as CSV and as LaTeX, for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from scorda.cli.escapes import escaped

__all__ = ["FORMATS", "Rows", "as_csv", "as_latex"]

FORMATS = ("table", "csv", "latex")
# None is a rule between rows.
Rows = Sequence[Sequence[str] | None]

# What LaTeX would read as a command, and characters that its fonts may lack.
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--", "²": "$^2$", "χ": r"$\chi$",
    "∞": r"$\infty$", "→": r"$\to$", "≥": r"$\geq$", "×": r"$\times$",
}  # fmt: skip
PLUS_MINUS, NOTHING = " ± ", "–"


def as_csv(head: Sequence[str], rows: Rows) -> str:
    """Return a table as CSV; a column of means and errors is two, and what is absent is empty.

    Rules are left out, and the name of a group stands in each of its rows.
    """
    lines = _whole(head, rows)
    split = [any(PLUS_MINUS in line[i] for line in lines) for i in range(len(head))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([part for name, two in zip(head, split, strict=True) for part in
                     ([name, f"{name} ±"] if two else [name])])  # fmt: skip
    for line in lines:
        cells: list[str] = []
        for text, two in zip(line, split, strict=True):
            plain = "" if text == NOTHING else escaped(text)
            mean, _, error = plain.partition(PLUS_MINUS)
            cells += [mean, error] if two else [plain]
        writer.writerow(cells)
    return out.getvalue()


def as_latex(title: str | None, head: Sequence[str], rows: Rows, left: int) -> str:
    """Return a table as a ``tabular`` with the rules of booktabs; the first columns are text."""
    columns = "l" * left + "r" * (len(head) - left)
    lines = [f"% {' '.join(escaped(title).split())}"] if title else []
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_row(head), r"\midrule"]
    lines += [r"\midrule" if row is None else _latex_row(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _whole(head: Sequence[str], rows: Rows) -> list[list[str]]:
    """Return the rows without rules, each with the name of its group."""
    found: list[list[str]] = []
    for row in rows:
        if row is not None:
            first = found[-1][0] if found and not row[0] and len(head) > 2 else row[0]
            found.append([first, *row[1:]])
    return found


def _latex_row(cells: Sequence[str]) -> str:
    texts = ("".join(LATEX.get(letter, letter) for letter in escaped(cell)) for cell in cells)
    return " & ".join(texts) + r" \\"
