"""The command line: one file per command, imported only when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

__all__ = ["main"]

# Threads that wait for each other sleep: on a machine that is busy, threads that spin, which is
# what they do unless they are told before torch is imported, take ten times as long and more.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

COMMANDS = {
    "inspect": "Say what is understood of files, before anything is run.",
    "simulate": "Simulate a truth and observations of it.",
    "train": "Train a prior on trajectories, or with --prior on the forecasts of a filter.",
    "assimilate": "Assimilate observations and store the posterior.",
    "compare": "Run methods side by side on your own files: one table, one page.",
    "tune": "Choose settings of a method without a truth, by the observations.",
    "forecast": "Advance the last members of a stored run without observations.",
    "verify": "Score a forecast by its lead time against observations that came later.",
    "analyse": "Condition the ensemble of another program on observations, once.",
    "report": "Write one HTML page about stored posteriors.",
    "bench": "Run a benchmark and compare it with the expected scores.",
    "methods": "List the methods, or describe one of them.",
    "demo": "Assimilate the shipped observations of Lorenz-63 with several methods.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done; 1: an error that nobody has foreseen, or one of a user's own code; 2: a mistake of the
    caller, or a disk or a memory that is full; 3: a filter that diverged or whose ensemble has no
    spread, what it made before is stored; 130: interrupted; 141: nobody reads the output any more;
    143: terminated.
    """
    from scorda.cli import signals

    status, process = 0, arguments is None
    with signals.heard(to_the_end=process):
        from scorda.cli import console, endings, escapes, streams

        words = list(sys.argv[1:] if arguments is None else arguments)
        command = endings.Command([w for w in words if w != "--debug"], debug="--debug" in words)
        if process:
            streams.opened()
        streams.encodable()
        console.begin()
        try:
            try:
                with escapes.escaped_warnings():
                    _run(command)
            finally:
                streams.flushed()
        except (Exception, BaseExceptionGroup, KeyboardInterrupt, SystemExit) as error:
            signals.deaf()
            status = endings.ended(error, command)
            if process and (status > 128 or endings.left_open(error)):
                # Threads that still compute are not waited for, nor is what they left freed.
                os._exit(status)
    if process and status:
        streams.silenced()
    return status


def _run(command: Any) -> None:
    """Read the command line and the file of settings, and call the command."""
    from cyclopts import App, Parameter
    from cyclopts.config import Dict

    from scorda.cli.allocator import keep_freed_memory
    from scorda.cli.console import formatted
    from scorda.cli.continuing import continued
    from scorda.cli.keep import spelled_out
    from scorda.cli.settings import configured, flags_of
    from scorda.cli.values import check_values
    from scorda.core.version import __version__

    keep_freed_memory()
    app = App(
        name="scorda",
        version=__version__,
        help="Score-based and classical data assimilation. "
        "`scorda COMMAND --help` shows the settings of a command; with --debug, every command "
        "shows where an error comes from; with --format csv or latex, it prints its table so, and "
        "all else on standard error.",
        default_parameter=Parameter(negative_bool=(), negative_iterable=(), negative_none=()),
        # The renderer of Markdown would take a third of the time of --help.
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    tokens = formatted(command.tokens) or ["--help"]
    tokens, content, path = configured(tokens)
    tokens, content = continued(tokens, content)
    tokens = spelled_out(tokens, content)
    command.out = flags_of(tokens).get("out") or content.get("out")
    for name, summary in COMMANDS.items():
        target: Any = f"scorda.cli.{name}:{name}"
        if name == tokens[0]:
            target, tokens, content = _chosen(target, tokens, content)
        app.command(target, name=name, help=summary)
    app.config = (Dict(content, source=path, use_commands_as_keys=False), check_values)
    app(tokens, exit_on_error=False, print_error=False)


def _chosen(
    command: Any, tokens: list[str], content: dict[str, Any]
) -> tuple[Any, list[str], dict[str, Any]]:
    """Return the command that is called; settings of its method or prior are its own."""
    from scorda.cli.settings import flags_of

    name = tokens[0]
    if name in ("assimilate", "analyse", "tune"):
        from scorda.cli.method_flags import with_method

        module = import_module(f"scorda.cli.{name}")
        return with_method(
            getattr(module, name.capitalize()), getattr(module, name), tokens, content
        )
    if name == "train" and "prior" in flags_of(tokens):
        from scorda.cli.train_network import train_network

        return train_network(tokens, content), tokens, content
    return command, tokens, content
