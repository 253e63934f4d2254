"""The command ``scorda methods`` lists the methods and shows what their classes declare."""

from __future__ import annotations

import inspect
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any, get_type_hints

from scorda.cli import catalogue
from scorda.cli.console import console, is_table, table as print_table
from scorda.cli.readable import readable

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator

__all__ = ["HEAD", "markdown", "methods", "row"]

HEAD = (
    "method", "uses", "posterior", "system", "h", "R", "law", "coordinates", "exact for", "cost",
    "N ≥",
)  # fmt: skip
# Columns that a terminal of 80 columns has room for; of one method all are told.
SHORT = (0, 3, 4, 6, 7)
# What a method may need of a system, in the words of a table.
SYSTEM = {
    "linear_system": "linear-Gaussian",
    "differentiable_system": "gradient",
    "transition_density": "density of model error",
    "simulator": "simulator",
}
# Laws of observations beside the Gaussian.
LAWS = {
    "gaussian_errors": "no",
    "robust_errors": "robust",
    "linearised_errors": "linearised",
    "density": "any",
}
NOTES = """\
Posterior: the law of the states before any observation is that of the climate, which a trained
prior knows, or of forecasts by the system; system: what it must provide; h: the observation
operator that the method can take; R: errors given by `std` alone or also by a full `cov`; law:
what else than a Gaussian the observed values may have, robust: Student, Laplace and Huber, by
reweighting; linearised: any, by the closest linear Gaussian; N: members. A filter's states are
conditioned on past observations, a smoother's on all. Cost: what a member costs at the default
settings beside the steps of the system, in an analysis of a filter, in a run of any other. Every
method takes missing values, cycles without any, and gaps of any length; every filter takes
`--method.gross-error-check k`, which leaves out values more than k standard deviations from what
its members predict, and, unless its members have weights, `--method.inflation` as a number or by
name, such as `rtps:0.9`. `scorda methods NAME` shows the settings of a method."""


def methods(name: str | None = None, *, table: bool = False) -> None:
    """List the methods; or describe one, with its settings.

    Arguments:
        name: A method, to see its description and settings.
        table: Show what each method needs, can do and costs.
    """
    if name is not None:
        _describe(name)
    elif table:
        _print_table()
    else:
        _print_list()


def _print_list() -> None:
    """Print name and first sentence of each method, read without importing any."""
    rows: list[list[str] | None] = []
    for smoother in (False, True):
        group = [(n, m.sentence) for n, m in catalogue.listed().items() if m.smoother == smoother]
        heading = "smoothers: all data" if smoother else "filters: past data only"
        rows += [["", heading], *map(list, group), None]
    if others := catalogue.announced("scorda.methods"):
        rows += [["", "of other packages"], *([n, entry.value] for n, entry in others.items())]
    print_table(None, ["method", ""], rows, left=2)
    console().print(
        "`scorda methods NAME` shows the settings of a method, `scorda methods --table` what each "
        "needs, can do and costs.",
    )


def _print_table() -> None:
    """Print what a terminal has room for, or with ``--format`` all columns."""
    shown = SHORT if is_table() else tuple(range(len(HEAD)))
    rows: list[list[str] | None] = []
    for smoother in (False, True):
        cells = [
            row(n, kind) for n, kind in catalogue.methods().items() if kind.smoother == smoother
        ]
        rows += [*([line[i] for i in shown] for line in cells), None]
    print_table(None, [HEAD[i] for i in shown], rows[:-1], left=len(shown))
    console().print(" ".join(NOTES.split()))


def row(name: str, kind: type[Assimilator]) -> list[str]:
    """Return what a method needs and can do, in the order of `HEAD`."""
    if "linear_operator" in kind.needs:
        operator = "linear"
    else:
        operator = "gradient" if "differentiable_operator" in kind.needs else "black box"
    system = next((words for need, words in SYSTEM.items() if need in kind.needs), "none")
    if catalogue.needs_trained_prior(kind):
        system = "trained prior"
    coordinates = "if localized" if _may_localize(kind) else "no"
    return [
        name,
        "all data" if kind.smoother else "past data",
        "climatological" if catalogue.needs_trained_prior(kind) else "forecast",
        system,
        operator,
        "std" if "independent_errors" in kind.needs else "std, cov",
        LAWS[kind.errors],
        "yes" if "positions" in kind.needs else coordinates,
        kind.exact,
        str(kind.cost) or "–",
        str(kind.least_members),
    ]


def markdown() -> str:
    """Return the table of all methods for the documentation, with its notes."""
    kinds = [(name, method.load()) for name, method in catalogue.listed().items()]
    kinds.sort(key=lambda pair: pair[1].smoother)
    lines = [HEAD, ["---"] * len(HEAD), *(row(*pair) for pair in kinds)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{NOTES}\n"


def _may_localize(kind: type) -> bool:
    """Return whether a setting localizes, or one of the prior that is made of the ensemble."""
    from scorda.core.tapers import GaspariCohn
    from scorda.priors.base import EnsemblePrior

    hints: dict[str, Any] = get_type_hints(kind)
    settings = [hints[name] for name in catalogue.options_of(kind)]
    return any(
        part in (GaspariCohn, EnsemblePrior)
        for setting in settings
        for part in (setting, *getattr(setting, "__args__", ()))
    )


def _describe(name: str) -> None:
    kind = catalogue.find_method(name)
    out = console()
    out.print(readable(inspect.cleandoc(kind.__doc__ or "")))
    out.print()
    for title, cell in zip(HEAD[1:], row(name, kind)[1:], strict=True):
        out.print(f"{title}: {cell}", soft_wrap=True)
    out.print("\nSettings on the command line, and what they may be made of:")
    hints = get_type_hints(kind)
    for key, field in catalogue.options_of(kind).items():
        flag, default = f"--{key.replace('_', '-')}", catalogue.default_of(field)
        shown = "required" if default is MISSING else f"default {default!r}"
        out.print(f"  {flag}  ({shown})", soft_wrap=True)
        for part, made in catalogue.parts_of(hints[key]).items():
            inner = [f"{flag}.{k.replace('_', '-')}" for k in catalogue.options_of(made)]
            out.print(f"      {flag} {part}: {' '.join(inner)}", soft_wrap=True)
        for made in catalogue.in_files(hints[key]):
            words = f"{flag} FILE.safetensors: {made.__name__}"
            out.print(f"      {words}, made by `scorda train`", soft_wrap=True)
