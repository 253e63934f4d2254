"""The observations of a run, from the files that its settings name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scorda.cli.console import console
from scorda.cli.settings import UserError

if TYPE_CHECKING:
    from scorda.cli.posed import Posed
    from scorda.observations.observations import Observations

__all__ = ["limit_of", "observed"]

# Steps from --start to the first observation that are likely a mistake, if the data span a tenth.
LATE = 100
# Steps without an observation that are likely a mistake, if they are so many times the others.
LONG_GAP, TIMES = 10_000, 100


def observed(given: Posed, system: Any) -> tuple[list[Observations], int]:
    """Return the observations of the steps to run, and the number of these steps."""
    from scorda.cli.common import climate_of, read_observations, units_of
    from scorda.observations.law_names import laws_named

    how: dict[str, Any] = {"units": units_of(given.units), "missing": given.missing}
    how |= {"nearest": given.nearest, "law": laws_named(given.law, system.space.variables)}
    limit = limit_of(given)
    if limit is not None:
        how |= {"climate": climate_of(system), "gross_error_check": limit}
        how |= {"first_climate": given.system is not None}
    where = given.observations, system.space, given.start, given.tolerance, given.std

    def read(steps: int | None) -> list[Observations]:
        return read_observations(*where, steps, given.variable, **how)

    observations = read(given.steps)
    for instrument in observations:
        console().print(instrument.summary(), markup=False)
    steps_of = (step for o in observations for step in o.steps)
    seen = sorted({step[-1] if isinstance(step, tuple) else step for step in steps_of})
    steps = given.steps
    if steps is None:
        first, steps = seen[0], seen[-1]
        if given.start is not None and first > max(LATE, 10 * (steps - first)):
            raise UserError(
                f"The first observation is {first} steps after --start {given.start}: check it, "
                f"or give --steps {steps} if the run is to begin there."
            )
        _check_gap(seen, system.space.dt)
    if given.quick:
        steps = min(steps, seen[max(len(seen) // 10, 1) - 1])
        observations = read(steps)
    return observations, steps


def _check_gap(observed: Sequence[int], dt: float) -> None:
    """Refuse a run whose last observations are so far off that their time is likely mistyped."""
    for before, step in itertools.pairwise([0, *observed]):
        if step - before > max(LONG_GAP, TIMES * before):
            since = f"after the observations of step {before}" if before else "after step 0"
            raise UserError(
                f"The next observations {since} are of step {step}, at the time {step * dt:g}: "
                f"correct their time, or give --steps {observed[-1]} if the run is so long."
            )


def limit_of(given: Posed) -> float | None:
    """Return the limit of the check of gross errors; None where it is off."""
    if given.gross_error_check.strip().lower() == "off":
        return None
    try:
        limit = float(given.gross_error_check)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise UserError(
            f"Got --gross-error-check {given.gross_error_check}: give a number of standard "
            "deviations, or off."
        )
    return limit
