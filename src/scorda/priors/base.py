r"""Priors of forecast ensembles: an ensemble becomes a denoiser in the modes of an observation.

A prior is a set of frozen settings. What a run of a filter owns beside them (a geometry, the
weights of a network) lives in the `PriorRun` that `EnsemblePrior.begin` returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.observations.modes import Modes

if TYPE_CHECKING:
    from scorda.diffusion.bridge import EnsembleDenoiser
    from scorda.observations.augmentation import AugmentedSpace
    from scorda.observations.problem import Problem

__all__ = ["EnsemblePrior", "PreparedPrior", "PriorRun"]


class PriorRun(ABC):
    """One run of a prior: it is fitted to one ensemble after another."""

    @abstractmethod
    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> EnsembleDenoiser:
        """Return the denoiser of the distribution.

        It may have a `report`: numbers that a filter reports of its cycle, with the tensors to
        carry to the next cycle under ``carried``.

        Arguments:
            ensemble: Members, ``(ensemble, *state)``.
            modes: Coordinates x' of the denoiser (default: those of the ensemble).
            space: Space of the states, where distances count.

        Raises:
            DegenerateEnsemble: If the ensemble has no spread at all.
        """

    def restore(self, carried: Mapping[str, Tensor]) -> None:  # noqa: B027 (most carry nothing)
        """Take up what an earlier cycle carried, where a run is continued."""


class EnsemblePrior(PriorRun):
    """A way to make a distribution of an ensemble.

    A prior that owns nothing in a run writes `fit` alone, and is its own run. One that does is a
    `PreparedPrior`.
    """

    least_members: int = 2
    # Whether the modes of an observation must be entries of the state.
    of_entries: bool = False
    # Whether settings of it are in the units of the state, which all variables then share.
    in_units_of_state: bool = False

    def check(self, space: StateSpace) -> None:
        """Check before a run that a space has what the prior needs.

        Raises:
            ValueError: If it has not.
        """

    def memory(self, space: StateSpace, members: int) -> int:
        """Return about how many bytes a fit in double precision holds at once.

        By default those of 15 ensembles.
        """
        return 15 * 8 * members * space.size

    def begin(self, problem: Problem | None) -> PriorRun:
        """Return what is fitted in one run of a filter: self, where the run owns nothing.

        Arguments:
            problem: What will be assimilated, or None for a fit outside a run.
        """
        return self


class PreparedPrior(EnsemblePrior):
    """A prior whose run owns something: blocks of a grid, a network; it writes `begin`."""

    @abstractmethod
    def begin(self, problem: Problem | None) -> PriorRun:
        """Return what is fitted in one run of a filter, as in `EnsemblePrior`."""

    @final
    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> EnsembleDenoiser:
        """Return the denoiser of an ensemble outside a run [final]."""
        return self.begin(None).fit(ensemble, modes, space)
