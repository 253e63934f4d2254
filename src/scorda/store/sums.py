r"""Sums over the points of each variable at each step, from which the scores of states follow.

They are additive over blocks of points, so a posterior of any size is scored in little memory, and
all variables together are scored by the sums of each, divided by powers of its unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from scorda import metrics
from scorda.core.arrays import as_tensor
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.transforms import Circular
from scorda.metrics.calibration import quantiles
from scorda.metrics.series import as_series, variance
from scorda.observations.analysis import Analysis
from scorda.store.members import InMemory, Members, blocks

__all__ = [
    "SUMMED",
    "Sums",
    "as_members",
    "rmse_and_spread",
    "scales",
    "scales_of",
    "scores_of",
    "state_sums",
    "truth_sums",
]

# By variable and quantity, one number per step.
Sums = dict[str, dict[str, Tensor]]
# Numbers whose sums are computed at once: they stay in the processor's cache.
TOGETHER = 2**17
# The power of the unit of the state that each quantity has.
POWERS = {"present": 0, "error": 2, "variance": 2, "fair": 2, "crps": 1, "inside": 0}
# The sums of `truth_sums`, and all that are kept of a run: its scores follow from these.
TRUE = ("truth", "truth_square")
SUMMED = (*POWERS, *TRUE)


def as_members(states: Any, space: StateSpace) -> Members:
    """Return a truth ``(time, *state)`` as a single member."""
    if isinstance(states, Members):
        return states
    return InMemory(Analysis(as_tensor(states, "the truth")[None], space))


def state_sums(members: Members, truth: Members) -> Sums:
    r"""Return sums over the present points of the truth, by variable and quantity, of each step.

    ``present`` counts the points, ``error`` sums the squared errors of the mean, ``variance`` the
    unbiased variances, ``fair`` these times :math:`1 + \sum_i w_i^2`, ``crps`` the fair CRPS, and
    ``inside`` counts the points in the central 90 % (see `scorda.metrics`).
    """
    times = members.shape[1]
    sums = {
        name: {quantity: torch.zeros(times, dtype=torch.float64) for quantity in POWERS}
        for name in members.space.variables
    }
    for block in blocks(members):
        (y,) = truth.flat(block.name, block.steps, block.rows)
        steps = max(TOGETHER // block.states[:, 0].numel(), 1)
        for cut in torch.arange(block.steps.start, block.steps.stop).split(steps):
            here = cut - block.steps.start
            if y[here].isnan().all():
                continue
            weights = None if block.weights is None else block.weights[:, here]
            circle = members.space.circular.get(block.name)
            for quantity, values in _sums(block.states[:, here], y[here], weights, circle).items():
                sums[block.name][quantity][cut] += values
    return sums


def scores_of(sums: Sums, scale: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return the scores of states from sums of the steps that count.

    Arguments:
        sums: What `state_sums` returned, of some variables and steps.
        scale: Unit by variable in which all are pooled; None: they have one in common.

    Raises:
        ValueError: If no value of the truth is present.
    """
    total = _pooled(sums, scale)
    present = total["present"]
    if not present.any():
        raise ValueError("The truth is NaN everywhere: a score needs at least one value.")
    steps = present > 0
    root = {name: (total[name] / present)[steps].sqrt() for name in ("error", "variance")}
    skill = (total["fair"].sum() / total["error"].sum()).sqrt()
    return {
        "rmse": float(root["error"].mean()),
        "spread": float(root["variance"].mean()),
        "spread_skill": float(skill),
        "crps": float((total["crps"] / present)[steps].mean()),
        "coverage": float(total["inside"].sum() / present.sum()),
    }


def rmse_and_spread(
    sums: Sums, scale: Mapping[str, float] | None = None
) -> tuple[Float[Tensor, "time"], Float[Tensor, "time"]]:
    """Return the RMSE of the mean and the spread of each step, NaN where no truth is."""
    total = _pooled(sums, scale)
    return tuple((total[name] / total["present"]).sqrt() for name in ("error", "variance"))  # type: ignore[return-value]


def pooled_variables(space: StateSpace) -> list[str]:
    """Return the variables that are scored together: all but parameters, if there are others."""
    fields = [name for name in space.variables if name not in space.parameters]
    return fields or list(space.variables)


def scales(truth: Members, first: int = 0) -> dict[str, float] | None:
    r"""Return the standard deviation of each variable, its unit in scores of all together.

    It is None where the units of all variables agree. A variable that is constant has 1, a
    circular one :math:`P / \sqrt{12}`, of a uniform law. There is none of parameters, which are
    scored by themselves.
    """
    space = truth.space
    if not space.several_units:
        return None
    found = {}
    for name in pooled_variables(space):
        if (circle := space.circular.get(name)) is not None:
            found[name] = circle.period / 12**0.5
            continue
        number, total, squares, shift = 0, 0.0, 0.0, None
        for block in blocks(truth, first, names=[name]):
            values = block.states[~block.states.isnan()]
            # Near the values, so that their squares do not hide the variance.
            shift = float(values.mean()) if shift is None and len(values) else shift
            values = values - (shift or 0.0)
            number += len(values)
            total, squares = total + float(values.sum()), squares + float(values.square().sum())
        var = squares / number - (total / number) ** 2 if number else 0.0
        found[name] = var**0.5 if var > 0 else 1.0
    return found


def truth_sums(truth: Members) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the sum of a truth by variable at each step, and that of squares around its mean."""
    found = {}
    for name in truth.space.variables:
        (y,) = truth.flat(name, slice(None), slice(None))
        present = ~y.isnan()
        total, number = torch.where(present, y, 0).sum(1), present.sum(1).clamp_min(1)
        away = torch.where(present, y - (total / number)[:, None], 0)
        found[name] = total, away.square().sum(1)
    return found


def scales_of(sums: Sums, space: StateSpace, first: int = 0) -> dict[str, float] | None:
    """Return what `scales` does, from sums of each step with those of `truth_sums`."""
    if not space.several_units:
        return None
    found = {}
    for name, own in ((n, sums[n]) for n in pooled_variables(space)):
        if (circle := space.circular.get(name)) is not None:
            found[name] = circle.period / 12**0.5
            continue
        number, total, squares = (own[q][first:] for q in ("present", *TRUE))
        mean = total.sum() / number.sum()
        between = (number * (total / number.clamp_min(1) - mean).square()).sum()
        var = float((squares.sum() + between) / number.sum())
        found[name] = var**0.5 if var > 0 else 1.0
    return found


def _sums(
    states: Tensor, truth: Tensor, weights: Tensor | None, circle: Circular | None
) -> dict[str, Tensor]:
    """Return the sums of some steps, from ``(ensemble, steps, entries)``."""
    x, y, w = as_series(states, truth, weights)
    if circle is not None:
        y = circle.near(y, (w * x).sum(0))
    present, spread = ~y.isnan(), variance(x, w)
    low, high = quantiles(x, (0.05, 0.95), weights)
    # A member that diverged must show, not count as a miss.
    inside = torch.where(low.isnan(), torch.nan, ((low <= y) & (y <= high)).to(x))
    found = {
        "error": ((w * x).sum(0) - y).square(),
        "variance": spread,
        "fair": (1 + w.square().sum(0)) * spread,
        "crps": metrics.pointwise_crps(x, y, weights, circle and circle.period),
        "inside": inside,
    }
    sums = {name: torch.where(present, values, 0).sum(1) for name, values in found.items()}
    return sums | {"present": present.sum(1).double()}


def _pooled(sums: Sums, scale: Mapping[str, float] | None) -> dict[str, Tensor]:
    """Return the sums over the variables in the unit of each, of those that have one."""
    unit = dict.fromkeys(sums, 1.0) if scale is None else scale
    return {
        quantity: torch.stack([sums[n][quantity] / u**power for n, u in unit.items()]).sum(0)
        for quantity, power in POWERS.items()
    }
