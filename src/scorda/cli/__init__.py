"""The command line: one file per command, imported only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

__all__ = ["main"]

COMMANDS = {
    "inspect": "Say what is understood of files, before anything is run.",
    "simulate": "Simulate a truth and observations of it.",
    "train": "Train a prior on trajectories, or with --prior on the forecasts of a filter.",
    "assimilate": "Assimilate observations and store the posterior.",
    "analyse": "Condition the ensemble of another program on observations, once.",
    "report": "Write one HTML page about stored posteriors.",
    "bench": "Run a benchmark and compare it with the expected scores.",
    "methods": "List the methods, or describe one of them.",
    "demo": "Assimilate the shipped observations of Lorenz-63 with several methods.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done; 1: anything unexpected; 2: a mistake of the caller; 3: a filter that diverged or whose
    ensemble has no spread, what it made before is stored; 130: interrupted.
    """
    from cyclopts import App, CycloptsError, Parameter
    from cyclopts.config import Dict

    from scorda.cli.allocator import keep_freed_memory
    from scorda.cli.settings import UserError, configured
    from scorda.core.version import __version__

    keep_freed_memory()
    app = App(
        name="scorda",
        version=__version__,
        help="Score-based and classical data assimilation. "
        "`scorda COMMAND --help` shows the settings of a command.",
        default_parameter=Parameter(negative_bool=(), negative_iterable=(), negative_none=()),
        # The renderer of Markdown would take a third of the time of --help.
        help_format="plaintext",
        result_action="return_value",
    )
    try:
        tokens = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
        tokens, content, path = configured(tokens)
        for name, summary in COMMANDS.items():
            command: Any = f"scorda.cli.{name}:{name}"
            if name == tokens[0]:
                command, tokens, content = _chosen(command, tokens, content)
            app.command(command, name=name, help=summary)
        app.config = Dict(content, source=path, use_commands_as_keys=False)
        app(tokens, exit_on_error=False, print_error=False)
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
        # A RunError, told without importing it: that would import torch after each typing error.
        return 2 if getattr(error, "step", None) is None else 3
    except KeyboardInterrupt:
        print("scorda: interrupted; --resume continues a run.", file=sys.stderr)
        return 130
    return 0


def _chosen(
    command: Any, tokens: list[str], content: dict[str, Any]
) -> tuple[Any, list[str], dict[str, Any]]:
    """Return the command that is called; settings of its method or prior are its own."""
    from scorda.cli.settings import flags_of

    name = tokens[0]
    if name in ("assimilate", "analyse"):
        from scorda.cli.method_flags import with_method

        module = import_module(f"scorda.cli.{name}")
        return with_method(
            getattr(module, name.capitalize()), getattr(module, name), tokens, content
        )
    if name == "train" and "prior" in flags_of(tokens):
        from scorda.cli.train_network import train_network

        return train_network(tokens, content), tokens, content
    return command, tokens, content


def _sentence(error: Exception) -> str:
    text = " ".join(" ".join([str(error), *getattr(error, "__notes__", [])]).split())
    return text if text.endswith((".", "?", "!")) else f"{text}."
