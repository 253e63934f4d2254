r"""A prior of trajectories as a denoiser of azula, for that library's samplers and guidances.

azula writes :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon` with a time from 0 to 1, and asks a
denoiser for the mean of :math:`x_0` given :math:`x_t`. Ours gives it for a noise level, so that

.. math:: E[x_0 \mid x_t] = D(x_t / \alpha_t, \sigma_t / \alpha_t)

under any schedule. azula is imported when a prior is handed over, and not before.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import align
from scorda.priors.trajectory import Prior

__all__ = ["as_azula"]


def as_azula(prior: Prior, states: int, schedule: Any = None) -> Any:
    """Return the denoiser of standardised trajectories of so many states as one of azula.

    It maps ``(ensemble, time, *state)`` and azula's time to azula's ``DiracPosterior``: the mean
    is that of our denoiser, to rounding, and there is no variance; other shapes are a ValueError.
    What azula draws becomes states by ``prior.space.bounded(prior.standardisation.inverse(x))``.

    Arguments:
        prior: The prior; one with a cycle of the day or year from ``prior.starting``.
        states: States of a trajectory.
        schedule: A ``Schedule`` of azula, whose noise levels are among those that the prior was
            trained on (default: that of the process of the prior).

    Raises:
        ImportError: If azula is not installed.
        ValueError: If the prior has no trajectories of that length.

    Source: azula 0.11.1, ``azula.denoise`` and ``azula.noise``.
    """
    try:
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import Schedule
    except ImportError as error:
        missing = "as_azula needs azula, which is not installed: pip install azula."
        raise ImportError(missing) from error

    if states < 1:
        raise ValueError(f"Got states = {states}: a trajectory has at least one.")
    shape = (states, *prior.space.shape)

    class OfProcess(Schedule):
        """The schedule of a scalar process."""

        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return prior.process.alpha(t), prior.process.sigma(t)

    class OfPrior(Denoiser):
        """The denoiser of a prior."""

        def __init__(self) -> None:
            super().__init__()
            # A copy of the weights, which the caller may move to another device.
            self.own = prior.to(prior.device).denoiser(states)
            if isinstance(network := getattr(self.own, "network", None), nn.Module):
                self.network = network
            self.schedule = schedule or OfProcess()

        def forward(
            self, x_t: Float[Tensor, "ensemble time ..."], t: Float[Tensor, "..."], **others: Any
        ) -> Any:
            if x_t.shape[1:] != shape:
                raise ValueError(
                    f"Got x_t of shape {tuple(x_t.shape)}: this denoiser takes (members, "
                    f"{', '.join(map(str, shape))})."
                )
            alpha, sigma = (align(part, x_t) for part in self.schedule(t))
            return DiracPosterior(mean=self.own.denoise(x_t / alpha, sigma / alpha))

    return OfPrior()
