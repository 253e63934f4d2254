"""The directive ``benchmark-results``: a table of each file in ``benchmarks/results``.

Above each table stand the command, the machine, and the commit and date of the file's last change.
``results.js`` makes the tables sortable and filters all of them at once; without it they are read
as they are.
"""

from __future__ import annotations

import csv
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
UNKNOWN = "not recorded"
# What stands above a table, where all its rows agree.
FACTS = ("machine", "commit", "seeds")


class BenchmarkResults(Directive):
    """Show all results, a section for each file."""

    def run(self) -> list[nodes.Node]:
        environment = self.state.document.settings.env
        commands = tomllib.loads((RESULTS / "commands.toml").read_text(encoding="utf-8"))
        sections: list[nodes.Node] = []
        for file in sorted(RESULTS.glob("*.csv")):
            environment.note_dependency(str(file))
            sections.append(section(file, commands.get(file.stem, UNKNOWN)))
        return sections


def section(file: Path, command: str) -> nodes.section:
    """Return the section of one file: its facts and its table."""
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    common = {f: {row.get(f, "") for row in rows} for f in FACTS}
    told = {f: values.copy().pop() or UNKNOWN for f, values in common.items() if len(values) == 1}
    columns = [c for c in rows[0] if c not in told and any(row[c] for row in rows)]
    made = nodes.section(ids=[nodes.make_id(f"results-{file.stem}")], classes=["results"])
    made += nodes.title(text=file.stem)
    code = [] if command == UNKNOWN else command.split("; ")
    made += nodes.literal_block(text="\n".join(code), language="bash") if code else nodes.comment()
    facts = {
        "command": "" if code else UNKNOWN,
        "machine": told.get("machine", "in the table"),
        "seeds": told.get("seeds", "in the table"),
        "commit of the runs": told.get("commit", "in the table"),
        f"last change of {file.name}": last_change(file),
    }
    made += nodes.paragraph(text="; ".join(f"{k}: {v}" for k, v in facts.items() if v) + ".")
    made += table(columns, [[row[c] for c in columns] for row in rows])
    return made


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> nodes.table:
    """Return a table of texts."""

    def line(cells: Sequence[str]) -> nodes.row:
        return nodes.row("", *[nodes.entry("", nodes.paragraph(text=cell)) for cell in cells])

    group = nodes.tgroup(cols=len(heads))
    group += [nodes.colspec(colwidth=1) for _ in heads]
    group += nodes.thead("", line([head.replace("_", " ") for head in heads]))
    group += nodes.tbody("", *[line(row) for row in rows])
    return nodes.table("", group, classes=["sortable"])


def last_change(file: Path) -> str:
    """Return commit and date of the last change of a file, where git knows them."""
    try:
        told = subprocess.run(
            ["git", "log", "-1", "--format=%h of %cs", "--", file.name],
            cwd=file.parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return told.stdout.strip() or UNKNOWN


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("benchmark-results", BenchmarkResults)
    app.add_js_file("results.js", loading_method="defer")
    return {"parallel_read_safe": True}
