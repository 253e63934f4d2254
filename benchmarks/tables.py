"""Make the tables of the documentation from the CSV files of the results.

A comment in a page says where a table comes from and which columns it has; the table stands
between this comment and the next one. A field of the file stands in braces:

    <!-- table: results/lorenz96-masf-gap.csv where gap=8
    method: {method}
    CRPS: {crps} ± {crps_error}
    -->

    | method | CRPS |
    ...

    <!-- /table -->

Each line is the heading of a column, a colon and the template of its cells. A field that is empty
takes the ``±`` or ``/`` before it away. A heading that has fields itself makes one column for each
of their values, as ``gap {gap}`` does. ``where`` keeps the rows that have this value.

    python benchmarks/tables.py           # writes the tables
    python benchmarks/tables.py --check   # fails if a page differs from the results
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["main", "rendered", "table"]

FOLDER = Path(__file__).parent
PAGES = FOLDER.parent / "docs"
MARKED = re.compile(
    r"(<!-- table: (?P<file>\S+)(?: where (?P<field>\w+)=(?P<value>[^\n]+?))?\n"
    r"(?P<columns>.*?)-->\n).*?(<!-- /table -->)",
    re.DOTALL,
)

Record = Mapping[str, str]


def main(arguments: list[str]) -> int:
    """Write the tables of all pages, or check them; returns the number of pages that differ."""
    differ = 0
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (made := rendered(text)) != text:
            differ += 1
            if "--check" in arguments:
                print(f"{page.name} differs from the results: run python benchmarks/tables.py.")
            else:
                page.write_text(made, encoding="utf-8")
                print(f"{page.name} is written.")
    return differ if "--check" in arguments else 0


def rendered(text: str) -> str:
    """Return the text of a page with its tables made anew."""

    def replacement(match: re.Match[str]) -> str:
        with (FOLDER / match["file"]).open(newline="", encoding="utf-8") as file:
            records = list(csv.DictReader(file))
        if match["field"]:
            records = [r for r in records if r[match["field"]] == match["value"]]
        columns = [line.split(": ", 1) for line in match["columns"].strip().splitlines()]
        return (
            f"{match[1]}\n{table(records, [(head, cell) for head, cell in columns])}\n{match[6]}"
        )

    return MARKED.sub(replacement, text)


def table(records: Iterable[Record], columns: list[tuple[str, str]]) -> str:
    """Return a table in Markdown.

    Arguments:
        records: Rows of the file.
        columns: Heading and template of each column. Records that agree in all columns whose
            headings have no fields share a line of the table.
    """
    heads: dict[str, None] = {}
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for record in records:
        key = tuple(_filled(cell, record) for head, cell in columns if "{" not in head)
        line = lines.setdefault(key, {})
        for head, cell in columns:
            heads.setdefault(head.format_map(record))
            line[head.format_map(record)] = _filled(cell, record)
    rows = [list(heads), ["---"] * len(heads)]
    rows += [[line.get(head, "") for head in heads] for line in lines.values()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _filled(template: str, record: Record) -> str:
    """The template with the fields of a record, without the separators of empty ones."""
    parts = re.split(r"( ± | / )", template)
    cell = ""
    for separator, part in zip(["", *parts[1::2]], parts[::2], strict=True):
        if value := part.format_map(record).strip():
            cell += separator + value if cell else value
    return cell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
