"""Output of the commands: progress bars on a terminal, tables, short lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scorda.cli.escapes import escaped
from scorda.cli.settings import UserError
from scorda.cli.signals import raise_if_asked
from scorda.cli.tables import FORMATS, as_csv, as_latex

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Reached",
    "begin",
    "console",
    "formatted",
    "progress",
    "reached",
    "score_rows",
    "table",
]


@dataclass
class Reached:
    """How far a command is, for the sentence that it ends with when it is interrupted.

    Arguments:
        unit: What its work is counted in, None before the work begins.
        done: Number of these that are done.
        total: Number of these in all.
        resumable: Whether ``--resume`` continues it.
    """

    unit: str | None = None
    done: int = 0
    total: int = 0
    resumable: bool = False


_now = Reached()
# How tables are printed.
_format = "table"


def begin() -> None:
    """Forget how far an earlier command of this process was, and how it printed tables."""
    global _now, _format
    _now, _format = Reached(), "table"


def formatted(tokens: Sequence[str]) -> list[str]:
    """Return the words of a command without ``--format``, which is how tables are printed.

    Raises:
        UserError: If there is no such format.
    """
    global _format
    kept: list[str] = []
    words = iter(tokens)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--format":
            kept.append(word)
            continue
        _format = value if equals else next(words, "")
        if _format not in FORMATS:
            raise UserError(f"Got --format {_format}: choose one of {', '.join(FORMATS)}.")
    return kept


def reached() -> Reached:
    """Return how far the command is."""
    return _now


def console() -> Console:
    """Return a console on standard output, wide enough for tables if that is no terminal.

    Where ``--format`` asks for another table, it is on standard error.

    It prints texts and cells of tables as they are: what looks like markup comes from data.
    Control characters are shown as escapes.
    """
    from scorda.cli.screen import Screen

    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    # A table that a file is made of stands alone on standard output.
    plain["stderr"] = _format != "table"
    made = Screen(**plain)
    return made if made.is_terminal else Screen(**plain, width=140)


@contextmanager
def progress(label: str, unit: str = "step") -> Iterator[Callable[[int, int], None]]:
    """Give a function of (done, total) that moves a bar; there is none without a terminal.

    Arguments:
        label: Text beside the bar.
        unit: What is counted.
    """
    from scorda.core.progress import bar

    with bar(escaped(label)) as move:
        _now.unit, _now.done, _now.total = unit, 0, 0

        def update(done: int, total: int) -> None:
            raise_if_asked()
            _now.done, _now.total = done, total
            move(done, total)

        yield update


def is_table() -> bool:
    """Say whether tables are for a reader at a terminal."""
    return _format == "table"


def table(
    title: str | None, head: Sequence[str], rows: Sequence[Sequence[str] | None], left: int = 1
) -> None:
    """Print a table; the first `left` columns are text, None is a rule between rows.

    As CSV or LaTeX, with ``--format``, it is what stands on standard output, and nothing else.
    """
    if _format != "table":
        text = as_csv(head, rows) if _format == "csv" else as_latex(title, head, rows, left)
        sys.stdout.write(text)
        return
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(head):
        made.add_column(name, justify="left" if i < left else "right", no_wrap=i == 0)
    for row in rows:
        if row is None:
            made.add_section()
        else:
            made.add_row(*row)
    console().print(made)


# Scores in the order and with the headings in which a terminal shows them.
HEADINGS = {
    "rmse": "RMSE",
    "spread": "spread",
    "spread_skill": "spread/skill",
    "crps": "CRPS",
    "wasserstein": "W1",
    "observation_rmse": "RMSE (withheld)",
    "innovation_chi2": "chi²",
    "observation_crps": "CRPS (withheld)",
    "observation_log": "−log p (withheld)",
    "observation_coverage": "90 % covers",
    "evaluations": "evaluations",
    "seconds": "seconds",
}


def score_rows(
    groups: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> tuple[list[str], list[list[str] | None]]:
    """Return head and rows of a table of scores: group, method, variable, scores.

    There is no variable where all are scored together.
    """
    from scorda.store.scores import by_variable

    split = {t: {m: by_variable(row) for m, row in g.items()} for t, g in groups.items()}
    found = [(of, row) for g in split.values() for part in g.values() for of, row in part.items()]
    present = [name for name in HEADINGS if any(name in row for _, row in found)]
    apart = any(of for of, _ in found)
    rows: list[list[str] | None] = []
    for title, group in split.items():
        if rows and group:
            rows.append(None)
        for i, (method, of, scores) in enumerate(
            (method, of, row) for method, part in group.items() for of, row in part.items()
        ):
            values = [_number(name, scores.get(name)) for name in present]
            rows.append([title if i == 0 else "", method, *([of] if apart else []), *values])
    head = ["uses", "method", *(["variable"] if apart else [])]
    return [*head, *(HEADINGS[name] for name in present)], rows


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "evaluations":
        return f"{value:.0f}"
    if name.endswith("coverage"):
        return f"{100 * value:.0f} %"
    return f"{value:.2f}" if name == "seconds" or abs(value) >= 10 else f"{value:.3f}"
