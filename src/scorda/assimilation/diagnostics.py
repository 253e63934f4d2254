"""What a run of a filter reports of each cycle, and how the reports of all cycles become one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from scorda.assimilation.dropped import equal_weights
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.threads import one_thread
from scorda.observations.model import ObservationModel

__all__ = [
    "Statistics",
    "White",
    "collect",
    "innovation_of",
    "innovation_report",
    "join_weights",
    "spread_of",
]

# Numbers of the cycles whose statistics wait to be computed together.
WAITING = 2**16

# White anomalies ``(ensemble, obs)`` and white innovation ``(obs,)`` of an analysis.
White = tuple[Tensor, Tensor]


@dataclass(slots=True)
class _Waiting:
    """A cycle whose statistics are not computed yet, and the report that they belong to."""

    report: dict[str, Any]
    space: StateSpace
    ensemble: Tensor
    weights: Tensor | None
    white: White | None

    @property
    def alike(self) -> tuple[Any, ...]:
        """What is the same for cycles that are computed together."""
        white = None if self.white is None else self.white[0].shape
        return self.weights is None, self.ensemble.shape, white


@dataclass
class Statistics:
    """The spread and the innovations of a run, computed for several cycles at once.

    A few small operations on each cycle would take a tenth of the time of a run. A cycle has the
    same bits whichever others are computed with it.
    """

    _waiting: list[_Waiting] = field(default_factory=list, init=False, repr=False)
    _numbers: int = field(default=0, init=False, repr=False)

    def report(
        self,
        step: int,
        info: dict[str, Any],
        space: StateSpace,
        ensemble: Float[Tensor, "ensemble ..."],
        weights: Float[Tensor, "ensemble"] | None,
    ) -> dict[str, Any]:
        """Return the report of a cycle, which `settle` completes in place.

        It then has ``spread`` and, where the method reports ``white``, ``innovation`` and
        ``chi2``.

        Arguments:
            step: Step of the cycle.
            info: What the method reports.
            space: Space of the states.
            ensemble: The analysis.
            weights: Weights of its members, or None where all are equal.
        """
        white: White | None = info.get("white")
        report = {"step": step, "spread": None, **info}
        if white is not None:
            del report["white"]
            report |= {"innovation": None, "chi2": None}
        numbers = ensemble.numel() + (0 if white is None else white[0].numel())
        if self._numbers + numbers > WAITING:
            self.settle()
        self._waiting.append(_Waiting(report, space, ensemble, weights, white))
        self._numbers += numbers
        if numbers > WAITING:
            self.settle()
        return report

    def settle(self) -> None:
        """Complete all reports."""
        if not self._waiting:
            return
        # A thread for each part of a sum would change its last digit with the cycles beside it.
        small = self._numbers <= WAITING
        waiting, self._waiting, self._numbers = self._waiting, [], 0
        with one_thread() if small else nullcontext():
            for _, cycles in groupby(waiting, lambda cycle: cycle.alike):
                self._complete(list(cycles))

    def _complete(self, cycles: list[_Waiting]) -> None:
        """Complete the reports of cycles that are alike."""
        space = cycles[0].space
        if cycles[0].weights is None:
            spreads = spreads_of(space, torch.stack([one.ensemble for one in cycles])).tolist()
        else:
            spreads = [float(spread_of(space, one.ensemble, one.weights)) for one in cycles]
        for one, value in zip(cycles, spreads, strict=True):
            if one.report["spread"] is None:
                one.report["spread"] = value
        whites = [one.white for one in cycles if one.white is not None]
        if whites:
            found = innovation_statistics(*map(torch.stack, zip(*whites, strict=True)))
            columns = (values.tolist() for values in found)
            for one, innovation, chi2 in zip(cycles, *columns, strict=True):
                one.report.update(innovation=innovation, chi2=chi2)


def innovation_statistics(
    anomalies: Float[Tensor, "cycle ensemble obs"], innovations: Float[Tensor, "cycle obs"]
) -> tuple[Float[Tensor, "cycle"], Float[Tensor, "cycle"]]:
    """Return the root mean square of innovations, and the mean of squares over expected ones.

    The first is in standard deviations of the observation error. The second, chi2, is about 1 if
    spread and R are right.
    """
    square = innovations.square()
    expected = 1 + anomalies.square().sum(1) / (anomalies.shape[1] - 1)
    return square.mean(1).sqrt(), (square / expected).mean(1)


def innovation_report(
    y: Float[Tensor, "obs"], predicted: Float[Tensor, "ensemble obs"], model: ObservationModel
) -> dict[str, Any]:
    """Return ``white`` of Gaussian errors, or the ``innovation`` in units of another law."""
    mean = predicted.mean(0)
    if model.law is not None:
        return {"innovation": model.residual(y, mean[None]).square().mean().sqrt()}
    white = model.whiten(torch.cat((predicted - mean, (y - mean)[None])))
    return {"white": (white[:-1], white[-1])}


def innovation_of(
    forecast: Tensor, weights: Tensor | None, y: Tensor, model: ObservationModel
) -> Tensor:
    """Root mean square of y less the mean of h(x), in units of the error or of its law."""
    predicted = model.operator(forecast).flatten(1)
    if weights is None:
        mean = predicted.mean(0)
    else:
        mean = torch.tensordot(weights.to(predicted), predicted, 1)
    return model.residual(y, mean[None]).square().mean().sqrt()


def spread_of(space: StateSpace, ensemble: Tensor, weights: Tensor | None) -> Tensor:
    """Root of the spatial mean of the unbiased ensemble variance, as `scorda.metrics.spread`."""
    if weights is None:
        return spreads_of(space, ensemble[None])[0]
    if space.has_land:
        ensemble = ensemble.flatten(1)[:, space.inside.to(ensemble.device)]
    weights = weights.to(ensemble)
    mean = torch.tensordot(weights, ensemble, 1)
    square = torch.tensordot(weights, (ensemble - mean).square(), 1).mean()
    # Where one member has all the weight this is 0 / 0 but for the floor.
    rest = 1 - weights.square().sum()
    return (square / rest.clamp_min(torch.finfo(rest.dtype).eps)).sqrt()


def spreads_of(
    space: StateSpace, ensembles: Float[Tensor, "cycle ensemble ..."]
) -> Float[Tensor, "cycle"]:
    """Return `spread_of` of ensembles whose members count alike."""
    flat = ensembles.flatten(2)
    if space.has_land:
        flat = flat[..., space.inside.to(flat.device)]
    # One member has no variance, and says so with a zero.
    freedom = max(flat.shape[1] - 1, 1) * flat.shape[2]
    anomalies = flat - flat.mean(1, keepdim=True)
    return torch.linalg.vector_norm(anomalies.flatten(1), dim=1) / freedom**0.5


def join_weights(weights: list[Tensor | None], states: Tensor) -> Tensor | None:
    """Return the weights of all steps, ``(ensemble, time)``; None where they are always equal.

    Arguments:
        weights: Weights of each step; None: those that are left count alike.
        states: States ``(ensemble, time, *state)``.
    """
    known = next((w for w in weights if w is not None), None)
    if known is None:
        return None
    equal = equal_weights(states, known.dtype).unbind(1)
    return torch.stack([e if w is None else w for e, w in zip(equal, weights, strict=True)], 1)


def collect(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one tensor per key where all cycles have it in one shape, else a list."""
    collected: dict[str, Any] = {}
    for key in dict.fromkeys(key for info in infos for key in info):
        values = [info[key] for info in infos if key in info]
        if len(values) == len(infos) and {type(value) for value in values} == {float}:
            collected[key] = torch.tensor(values, dtype=torch.float64)
            continue
        numbers = [isinstance(v, Tensor | int | float) for v in values]
        if all(numbers) and len({tuple(torch.as_tensor(v).shape) for v in values}) == 1:
            stacked = [torch.as_tensor(v) for v in values]
            collected[key] = torch.stack(stacked) if len(stacked) == len(infos) else values
        else:
            collected[key] = values
    return collected
