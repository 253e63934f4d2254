"""Observations of trajectories in the coordinates of a prior: what SDA merges, and what it guides.

Instruments that observe states at single steps become one observation of a whole standardised
trajectory, or noisy copies of its entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel, stacked
from scorda.observations.observations import Observations
from scorda.observations.operators import Gather, Operator
from scorda.priors.trajectory import Standardisation

__all__ = ["merge_entries", "observes_entries", "trajectory_model"]


def merge_entries(
    observations: tuple[Observations, ...],
    standardisation: Standardisation,
    shape: tuple[int, ...],
) -> tuple[Float[Tensor, "time ..."], Float[Tensor, "time ..."]]:
    """Values and precisions of a standardised trajectory's observed entries, for ``Conditioned``.

    Several observations of one entry become one: their mean, weighted by precision.

    Arguments:
        observations: Instruments that observe entries of the state.
        standardisation: Map to the sampler's coordinates.
        shape: ``(time, *state)``.
    """
    mean = standardisation.mean.double().expand(shape).flatten(1)
    std = standardisation.std.double().expand(shape).flatten(1)
    precision, weighted = torch.zeros_like(mean), torch.zeros_like(mean)
    for part in observations:
        entries = part.model.operator.entries(shape[1:])  # type: ignore[attr-defined]
        for k, step in enumerate(part.steps):
            y, model = part.at(k)
            index = entries[~part.values[k].flatten().isnan()]
            error = model.error_std(tuple(y.shape), y).double() / std[step, index]
            value = (y.double() - mean[step, index]) / std[step, index]
            precision[step].index_add_(0, index, error**-2)
            weighted[step].index_add_(0, index, error**-2 * value)
    values = torch.where(precision > 0, weighted / precision, 0)
    return values.view(shape), precision.view(shape)


def observes_entries(part: Observations) -> bool:
    """Whether each value is one entry of one state, with a Gaussian error of its own."""
    independent = part.model.law is None and (part.model.cov is None or part.std is not None)
    single = all(isinstance(step, int) for step in part.steps)
    return isinstance(part.model.operator, Gather) and independent and single


def trajectory_model(
    observations: tuple[Observations, ...], standardisation: Standardisation
) -> tuple[Float[Tensor, "obs"], ObservationModel]:
    """All present values of all instruments as one observation of a standardised trajectory."""
    # An instrument that saw nothing has no rows to predict.
    observations = tuple(part for part in observations if not part.values.isnan().all())
    rows = [instrument.at(k) for instrument in observations for k in range(len(instrument))]
    y = torch.cat([values for values, _ in rows]) if rows else torch.zeros(0)
    operator = _TrajectoryOperator(observations, standardisation)
    parts = [(values, model) for values, model in rows if len(values)]
    if not parts:
        return y[:0], ObservationModel(operator, std=1.0)
    return y, stacked(operator, parts)


@dataclass(frozen=True, eq=False)
class _TrajectoryOperator(Operator):
    """Present values of a standardised trajectory ``(ensemble, time, *state)``, flat.

    The order is that of the rows: instrument, step, entry.
    """

    observations: tuple[Observations, ...]
    standardisation: Standardisation

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return all(part.model.operator.differentiable for part in self.observations)

    def __call__(self, z: Float[Tensor, "ensemble time ..."]) -> Float[Tensor, "ensemble obs"]:
        x = self.standardisation.inverse(z)
        return torch.cat(
            [part.predict(x).flatten(1)[:, self._present(part)] for part in self.observations], 1
        )

    @staticmethod
    def _present(part: Observations) -> Tensor:
        return (~part.values.isnan()).flatten().nonzero()[:, 0]
