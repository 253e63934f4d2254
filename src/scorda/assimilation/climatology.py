r"""The climatological covariance B of a system, from draws of its prior.

B is that of states long apart, :math:`B = s \, A^T A / (n - 1)`, with the anomalies A of n draws
and a factor s. It is never made: a gain is a combination of anomalies, as in an ensemble Kalman
filter, so that memory grows with n states. The draws are the same in each run.

A climatology of your own is given as the states that a `FunctionSystem` draws its prior from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scorda.assimilation.kalman_algebra import white_innovation
from scorda.core import rng
from scorda.core.gaussian import component_std
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["Climatology", "StaticCovariance"]


@dataclass(frozen=True)
class Climatology:
    """How the climatological covariance of a system is made.

    Arguments:
        scale: Factor s of the covariance. States of a forecast are closer to the truth than those
            of a long run: 3D-Var takes a small factor.
        draws: Number n of draws of the system's `prior`.

    Example:
        With `problem` as in `twin_experiment`:

        >>> method = sc.ThreeDVar(climatology=sc.Climatology(scale=0.2))
        >>> analysis = method.assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    scale: float = 1.0
    draws: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"Got scale = {self.scale}: give a positive number.")
        if self.draws < 2:
            raise ValueError(f"Got draws = {self.draws}: a covariance needs at least 2.")

    def of(self, problem: Problem | None) -> StaticCovariance:
        """Return the covariance of the system of a problem, of its coordinates without bounds.

        Raises:
            ValueError: If there is no problem, and so no system; or the draws have no spread.
        """
        if problem is None:
            raise ValueError(
                "A climatological covariance needs a system, of whose prior it is made: call "
                "`begin(problem)` first."
            )
        states = problem.system.prior(self.draws, rng.seeded(0))
        states = problem.space.unbounded(problem.space.unrolled(states))
        if problem.initial is not None:
            states = states.to(problem.initial)
        if not component_std(states).any():
            raise ValueError(
                f"{self.draws} draws of the prior of {problem.system.name} are all alike: a "
                "climatological covariance needs some that differ."
            )
        mean = states.mean(0)
        return StaticCovariance(mean, self.scale**0.5 * (states - mean))

    def memory(self, problem: Problem) -> int:
        """Return about how many bytes the draws take, and what they predict."""
        observed = sum(part.values[:1].numel() for part in problem.instruments)
        # In single precision there is a copy in double.
        copies = 3 if problem.dtype == torch.float64 else 4
        return 8 * self.draws * (copies * problem.space.size + 4 * observed)


@dataclass(frozen=True, eq=False)
class StaticCovariance:
    """A mean, and anomalies whose covariance is B.

    Arguments:
        mean: Mean of the climatology, ``(*state)``.
        anomalies: ``(draws, *state)``.
    """

    mean: Float[Tensor, "..."]
    anomalies: Float[Tensor, "draws ..."]

    def predicted(
        self, place: Float[Tensor, "..."], y: Float[Tensor, "obs"], model: ObservationModel
    ) -> tuple[Float[Tensor, "draws obs"], Float[Tensor, "obs"]]:
        """Return white anomalies and the white innovation of the anomalies about a state.

        For a linear operator the anomalies are those of any state; for others this linearises it
        statistically, over states as far from `place` as B says.
        """
        return white_innovation(place + self.anomalies, y, model)
