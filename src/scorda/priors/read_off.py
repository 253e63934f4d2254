r"""Steps read off a prior of trajectories by conditioning its windows on the state before.

A window :math:`(x_k, x_{k+1}, \dots)` of the prior is drawn given its first state, which is
observed with a small error as SDA observes anything, and its second state is a draw of
:math:`p(x_{k+1} \mid x_k)`. Nothing is trained for it. Exact up to the steps of the sampler for a
Gaussian prior and `MMPS` with as many iterations as a state has components; else as approximate as
the guidance.
"""

from __future__ import annotations

from dataclasses import dataclass

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import Denoiser, NetworkDenoiser
from scorda.diffusion.guidance import Guidance, GuidedDenoiser, InflatedLikelihood
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Operator
from scorda.priors.trajectory import Prior, TrainedTrajectory

__all__ = ["guided_windows", "window_of"]

# Error of the state that a window is conditioned on, in standard deviations.
ERROR = 0.02


@dataclass(frozen=True, eq=False)
class _FirstState(Operator):
    """The first states of windows less those that are known, one for each sample."""

    known: Float[Tensor, "ensemble ..."]

    def __call__(self, x: Float[Tensor, "ensemble ..."]) -> Float[Tensor, "ensemble ..."]:
        return (x[:, 0] - self.known.to(x)).flatten(1)


def window_of(law: Prior) -> int:
    """Return the number of states of a window, which the network sees at once."""
    if not isinstance(law, TrainedTrajectory) or law.architecture["name"] == "modes":
        return 2
    return 2 * law.half_width + 1


def guided_windows(
    law: Prior, known: Float[Tensor, "ensemble ..."], guidance: Guidance | None = None
) -> GuidedDenoiser:
    """Return the denoiser of windows given their first states.

    Arguments:
        law: Prior with one noise level for all entries.
        known: First states, standardised.
        guidance: How they enter; None: as the prior says, else that of SDA's paper.
    """
    denoiser: Denoiser
    if isinstance(law, TrainedTrajectory):
        # Anomalies of a daily cycle have one law at all times.
        denoiser = NetworkDenoiser(law.network, law.limit)
    else:
        denoiser = law.denoiser(window_of(law))
    model = ObservationModel(_FirstState(known), std=ERROR)
    y = known.new_zeros(known[0].numel())
    return (guidance or law.guidance or InflatedLikelihood()).bind(denoiser, y, model)
