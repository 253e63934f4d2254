"""The figure that suits a space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scorda.observations.observations import Observations
from scorda.report.base import Columns, Source, Truth
from scorda.report.flow import is_flow, panels
from scorda.report.maps import fields, hovmoller, is_map
from scorda.report.partial import states_of
from scorda.report.series import trajectories

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]


def plot(
    analysis: Source,
    truth: Truth | None = None,
    observations: Observations | Sequence[Observations] | Columns | None = None,
    **options: Any,
) -> Figure:
    """Draw the figure that suits the space of a posterior.

    It is `panels` of a flow at its first, middle and last step; `fields` of a map at the last
    step; `hovmoller` of a line over time; and `trajectories` elsewhere.

    Arguments:
        analysis: The posterior.
        truth: True states, ``(time, *state)``.
        observations: What was observed.
        options: Those of the function that draws it, such as `step`, `variable` or `components`.

    Raises:
        TypeError: If that function has no such option.
    """
    space, last = analysis.space, states_of(analysis) - 1
    seen = [observations] if isinstance(observations, Observations) else observations
    if is_flow(space):
        steps = options.pop("steps", sorted({0, last // 2, last}))
        return panels(analysis, steps, truth, seen, **options)
    name = options.get("variable") or space.variables[0]
    piece = space.only(name)
    if is_map(piece):
        return fields(analysis, options.pop("step", last), truth, seen, **options)
    if len(piece.axes) == 1:
        return hovmoller(analysis, truth, **options)
    return trajectories(analysis, truth, seen, **options)
