"""``scorda methods``: what each method needs and can do, from what its class declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator

__all__ = ["HEAD", "methods", "row"]

HEAD = (
    "method",
    "uses",
    "system",
    "h",
    "R",
    "coordinates",
    "exact for",
    "cost",
    "N ≥",
)
# What a method may need of a system, in the words of a table.
SYSTEM = {
    "linear_system": "linear-Gaussian",
    "differentiable_system": "gradient",
    "transition_density": "density of model error",
    "simulator": "simulator",
}
NOTES = """\
System: what it must provide; h: the observation operator that the method can take; R: errors given
by `std` alone or also by a full `cov`; N: members. A filter's states are conditioned on past
observations, a smoother's on all. Cost: what a member costs at the default settings beside the
steps of the system, in an analysis of a filter, in a run of any other. Every method takes missing
values, cycles without any, and gaps of any length; every filter takes `--gross-error-check k`,
which leaves out values more than k standard deviations from what its members predict. `scorda
methods NAME` shows the settings of a method."""


def methods(name: str | None = None, *, markdown: bool = False) -> None:
    """List the methods: what they need and can do; or the settings of one.

    Arguments:
        name: A method, to see its description and settings.
        markdown: Print the table of the documentation.
    """
    from scorda.cli import catalogue
    from scorda.cli.console import console, table

    if name is not None:
        _describe(name)
        return
    if markdown:
        print(_markdown(), end="")
        return
    rows: list[list[str] | None] = []
    for smoother in (False, True):
        if rows:
            rows.append(None)
        for shell, kind in catalogue.methods().items():
            if kind.smoother == smoother:
                rows.append(row(shell, kind))
    table(None, HEAD, rows, left=len(HEAD) - 1)
    console().print(" ".join(NOTES.split()), markup=False)


def row(name: str, kind: type[Assimilator]) -> list[str]:
    """What a method needs and can do, in the order of `HEAD`."""
    from scorda.cli import catalogue

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
        system,
        operator,
        "std" if "independent_errors" in kind.needs else "std, cov",
        "yes" if "positions" in kind.needs else coordinates,
        kind.exact,
        str(kind.cost) or "–",
        str(kind.least_members),
    ]


def _markdown() -> str:
    """The table of the documentation."""
    from scorda.cli import catalogue

    kinds = sorted(catalogue.methods().items(), key=lambda pair: (pair[1].smoother, pair[0]))
    lines = [HEAD, ["---"] * len(HEAD), *(row(*pair) for pair in kinds)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        "# What each method needs and can do\n\n"
        "Printed by `scorda methods --markdown` from what the classes declare; the tests hold\n"
        f"the declarations to what the methods do.\n\n{body}\n\n{NOTES}\n"
    )


def _may_localize(kind: type) -> bool:
    """Whether a setting, or a setting of the prior that it makes of its ensemble, localizes."""
    from scorda.cli import catalogue
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
    import inspect
    from dataclasses import MISSING

    from scorda.cli import catalogue
    from scorda.cli.console import console

    kind = catalogue.find_method(name)
    out = console()
    out.print(inspect.cleandoc(kind.__doc__ or ""), markup=False)
    out.print("\nSettings on the command line, and what their values may be made of:")
    for key, field in catalogue.options_of(kind).items():
        default = "required" if field.default is MISSING else f"default {field.default}"
        if field.default is MISSING and field.default_factory is not MISSING:
            default = f"default {field.default_factory()!r}"
        out.print(f"  --{key.replace('_', '-')}  ({default})", markup=False)
        if key == "prior" and catalogue.needs_trained_prior(kind):
            continue
        for part, settings in catalogue.parts_of(kind, key).items():
            out.print(f"      {part}: {', '.join(settings)}", markup=False, soft_wrap=True)
