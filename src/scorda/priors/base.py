r"""Priors from ensembles: a forecast ensemble becomes a denoiser in the modes of an observation.

Both kinds here are exact: the denoiser of a Gaussian or of a kernel density on the members, at a
noise level for each mode, finite or infinite. That the ensemble is a sample is the one
approximation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from scorda.core.errors import DegenerateEnsemble
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.diffusion.bridge import EnsembleDenoiser
from scorda.observations.augmentation import AugmentedSpace
from scorda.observations.modes import Modes
from scorda.observations.problem import Problem

__all__ = ["EnsemblePrior", "clocks"]


class EnsemblePrior(ABC):
    """A way to make a distribution of an ensemble; subclasses write `fit`."""

    least_members: int = 2
    # Whether the modes of an observation must be entries of the state.
    of_entries: bool = False

    def check(self, space: StateSpace) -> None:  # noqa: B027 (most have nothing to check)
        """Check before a run that a space has what the prior needs.

        Raises:
            ValueError: If it has not.
        """

    def begin(self, problem: Problem) -> EnsemblePrior:
        """Return self, or a copy that owns what one run needs: a network and its weights.

        What `fit` of such a copy returns has a `report`: what a filter reports of its cycle, with
        the tensors to carry to the next one under ``carried``.
        """
        return self

    def restore(self, carried: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take up what an earlier cycle carried, in a copy of `begin`."""

    @abstractmethod
    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> EnsembleDenoiser:
        """Return the denoiser of the distribution.

        Arguments:
            ensemble: Members, ``(ensemble, *state)``.
            modes: Coordinates x' of the denoiser (default: those of the ensemble).
            space: Space of the states, where distances count.

        Raises:
            DegenerateEnsemble: If the ensemble has no spread at all.
        """


def clocks(var: Tensor) -> Tensor:
    """Variances of the modes, positive: where members are all alike the clock must still run."""
    top = var.max()
    if not top > 0:
        raise DegenerateEnsemble(
            f"The ensemble has no spread in any of {var.numel()} modes of the observation; start "
            "from members that differ, or add model error or jitter."
        )
    # What the sampler leaves of such a mode is beyond the last digit of the others.
    return var.clamp_min(top * torch.finfo(var.dtype).eps ** 2)
