"""The command line: one file per command, imported only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

COMMANDS = {
    "simulate": "Simulate a truth and observations of it.",
    "train": "Train a prior on trajectories.",
    "assimilate": "Assimilate observations and store the posterior.",
    "report": "Write one HTML page about stored posteriors.",
    "bench": "Run a benchmark and compare it with the expected scores.",
    "methods": "List the methods: what they use, and what they need.",
    "demo": "Assimilate the shipped observations of Lorenz-63 with several methods.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done; 1: anything unexpected; 2: a mistake of the caller; 3: a filter that diverged or whose
    ensemble has no spread, what it made before is stored; 130: interrupted.
    """
    from cyclopts import App, CycloptsError, Parameter

    from scorda import __version__
    from scorda.cli.allocator import keep_freed_memory
    from scorda.cli.settings import UserError, expand
    from scorda.core.errors import RunError

    keep_freed_memory()
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    app = App(
        name="scorda",
        version=__version__,
        help="Score-based and classical data assimilation. "
        "`scorda COMMAND --help` shows the settings of a command.",
        default_parameter=Parameter(negative_bool=(), negative_iterable=(), negative_none=()),
        result_action="return_value",
    )
    for name, summary in COMMANDS.items():
        app.command(f"scorda.cli.{name}:{name}", name=name, help=summary)
    try:
        app(expand(tokens) if tokens else ["--help"], exit_on_error=False, print_error=False)
    except (
        CycloptsError,
        UserError,
        ValueError,
        OSError,
        MemoryError,
        FloatingPointError,
        ImportError,
    ) as error:
        # The tests and the curious see where it came from: python -X dev -m scorda ...
        if sys.flags.dev_mode:
            raise
        print(f"scorda: {_sentence(error)}", file=sys.stderr)
        return 3 if isinstance(error, RunError) and error.step is not None else 2
    except KeyboardInterrupt:
        print("scorda: interrupted; --resume continues a run.", file=sys.stderr)
        return 130
    return 0


def _sentence(error: Exception) -> str:
    text = " ".join(" ".join([str(error), *getattr(error, "__notes__", [])]).split())
    return text if text.endswith((".", "?", "!")) else f"{text}."
