"""Write what follows from the methods: the table of methods.md and their public names.

Run it after a change of a method, or let ``make methods`` do so.
"""

import re
from itertools import groupby
from pathlib import Path

from scorda.cli.catalogue import listed
from scorda.cli.methods import markdown

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
NAMES = ROOT / "src" / "scorda" / "__init__.pyi"
# Of a line, with its end, as ruff formats.
LONGEST = 100
START, END = "<!-- table: docs/methods.py -->\n\n", "\n<!-- end of table -->"


def page(before: str) -> str:
    """Return methods.md with the table of today between its marks."""
    head, rest = before.split(START)
    return head + START + markdown() + END + rest.split(END)[1]


def names(before: str) -> str:
    """Return the stub with one import per file of methods."""
    found = sorted((method.module, method.name) for method in listed().values())
    lines = []
    for module, group in groupby(found, key=lambda pair: pair[0]):
        # As ruff sorts them: constants, which are all capitals, before classes.
        kinds = sorted((name for _, name in group), key=lambda name: (not name.isupper(), name))
        imports = [f"{name} as {name}" for name in kinds]
        line = f"from .{module.removeprefix('scorda.')} import {', '.join(imports)}\n"
        if len(line) > LONGEST:
            rows = "".join(f"    {name},\n" for name in imports)
            line = f"from .{module.removeprefix('scorda.')} import (\n{rows})\n"
        lines.append(line)
    kept = re.sub(r"(?ms)^from \.methods\.[^\n(]*(\(.*?\))?\n", "", before)
    return kept.replace("from .observations import", "".join(lines) + "from .observations import")


def main() -> None:
    """Rewrite both files."""
    for path, write in ((PAGE, page), (NAMES, names)):
        path.write_text(write(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
