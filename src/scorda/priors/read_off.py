r"""Steps read off a prior of trajectories by conditioning its windows on the state before.

A window :math:`(x_k, x_{k+1}, \dots)` of the prior is drawn given its first state, which is
observed with a small error as SDA observes anything, and its second state is a draw of
:math:`p(x_{k+1} \mid x_k)`. Nothing is trained for it. Exact up to the steps of the sampler for a
Gaussian prior and `MMPS` with as many iterations as a state has components; else as approximate as
the guidance.

Where the network takes a level per entry the first state is one more noisy copy of itself while
the noise is large, and guides below the prior's `handover`, as in SDA. Its small level all the way
down is what the network knows least: it was trained with errors of at least 0.01, and rarely on
segments with one known state. While the next state of Lorenz-63 is noisy, the mean that it gives
for it is off by more than a step changes it (benchmarks/NOTES.md). The states after the next one
are unknown, but a window without them is off too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import Conditioned, Denoiser, NetworkDenoiser, SwitchedDenoiser
from scorda.diffusion.guidance import Guidance, GuidedDenoiser, InflatedLikelihood
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Operator
from scorda.priors.trajectory import Prior, TrainedTrajectory

__all__ = ["guided_windows", "window_of"]

# Error of the state that a window is conditioned on, in standard deviations; and the least that
# networks with a level per entry are trained with.
ERROR, LEAST_ERROR = 0.02, 0.01
# States of a window of a network with a level per entry: that of a ring takes 4 k + 1.
STATES = 9


@dataclass(frozen=True, eq=False)
class _FirstState(Operator):
    """The first states of windows less those that are known, one for each sample."""

    known: Float[Tensor, "ensemble ..."]

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return (x[:, 0] - self.known.to(x)).flatten(1)


def window_of(law: Prior) -> int:
    """Return the number of states of a window, at most those that the network sees at once."""
    if not isinstance(law, TrainedTrajectory) or law.architecture["name"] == "modes":
        return 2
    return STATES if _merges(law) else 2 * law.half_width + 1


def _merges(law: Prior) -> bool:
    """Return whether the first state of a window can be one more noisy copy of itself."""
    return isinstance(law, TrainedTrajectory) and law.per_entry


def guided_windows(
    law: Prior, known: Float[Tensor, "ensemble ..."], guidance: Guidance | None = None
) -> GuidedDenoiser | SwitchedDenoiser:
    """Return the denoiser of windows given their first states.

    Arguments:
        law: Prior.
        known: First states, standardised.
        guidance: How they enter; None: as the prior says, else that of SDA's paper.
    """
    denoiser: Denoiser
    if isinstance(law, TrainedTrajectory):
        # Anomalies of a daily cycle have one law at all times.
        denoiser = NetworkDenoiser(law.network, law.limit)
    else:
        denoiser = law.denoiser(window_of(law))
    error = LEAST_ERROR if _merges(law) else ERROR
    model = ObservationModel(_FirstState(known), std=error)
    y, chosen = known.new_zeros(known[0].numel()), guidance or law.guidance
    guided = (chosen or InflatedLikelihood()).bind(denoiser, y, model)
    if chosen is not None or not _merges(law):
        return guided
    values = known.new_zeros(len(known), window_of(law), *known.shape[1:])
    values[:, 0] = known
    precision = torch.zeros_like(values[0])
    precision[0] = error**-2
    return SwitchedDenoiser(Conditioned(denoiser, values, precision), guided, law.handover)
