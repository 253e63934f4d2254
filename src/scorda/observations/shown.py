"""Problems and observations in one line, and as HTML for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorda.core.shown import as_html

if TYPE_CHECKING:
    from scorda.observations.observations import Observations
    from scorda.observations.problem import Problem

__all__ = ["observations_html", "problem_html", "problem_title"]


def observations_html(observations: Observations) -> str:
    """Return a summary of observations as HTML."""
    steps, values = observations.steps, observations.values
    span = f"{steps[0]} to {steps[-1]}" if steps else ""
    std = observations.flat_std[~observations.flat.isnan()]
    facts = {
        "operator": type(observations.model.operator).__name__,
        "values": f"{int((~values.isnan()).sum())} present of {tuple(values.shape)}",
        "steps": f"{len(steps)}, {span}" if steps else "none",
        "error": f"std {float(std.min()):.3g} to {float(std.max()):.3g}" if len(std) else "",
        "step 0": observations.start,
        "rows not used": len(observations.unused) or None,
        "notes": "; ".join(observations.notes),
    }
    return as_html("Observations", facts)


def problem_title(problem: Problem) -> str:
    """Say in a few words what is to be assimilated."""
    present = sum(int((~one.values.isnan()).sum()) for one in problem.instruments)
    name = getattr(problem.system, "name", type(problem.system).__name__)
    instruments = len(problem.instruments)
    return (
        f"{name}, {problem.steps} steps of {problem.space.size} numbers, {present} values of "
        f"{instruments} instrument{'' if instruments == 1 else 's'}"
    )


def problem_html(problem: Problem) -> str:
    """Return a summary of a problem as HTML, with its space and its instruments."""
    inside = {"space": problem.space._repr_html_()}
    for i, one in enumerate(problem.instruments):
        inside[f"instrument {i + 1}"] = observations_html(one)
    members = None if problem.initial is None else f"{len(problem.initial)} members"
    facts = {"posed": problem_title(problem), "initial": members, "step 0": problem.start}
    return as_html("Problem", facts, inside)
