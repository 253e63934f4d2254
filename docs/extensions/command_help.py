"""The directive ``command-help``: what ``scorda COMMAND --help`` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive

# Such that a page shows the lines whole.
COLUMNS = "88"


class CommandHelp(Directive):
    """Show the help of a command, which is made anew in each build."""

    required_arguments = 0
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        words = " ".join(self.arguments).split()
        told = subprocess.run(
            [sys.executable, "-m", "scorda", *words, "--help"],
            capture_output=True, text=True, check=True,
            env={**os.environ, "COLUMNS": COLUMNS, "NO_COLOR": "1", "TERM": "dumb"},
        )  # fmt: skip
        return [nodes.literal_block(told.stdout, told.stdout, language="text")]


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
