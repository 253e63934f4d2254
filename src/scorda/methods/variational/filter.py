r"""Four-dimensional variational assimilation: the most probable trajectory, by its gradient."""

from __future__ import annotations

import math
import time as clock
from dataclasses import dataclass, replace

import torch

from scorda.assimilation.base import Assimilator, Cost, check_members, check_needs
from scorda.assimilation.hybrid import Hybrid
from scorda.assimilation.localization import check_taper
from scorda.assimilation.memory import check_memory
from scorda.core import rng
from scorda.core.gaussian import component_std
from scorda.core.shapes import Float, Tensor
from scorda.core.tapers import GaspariCohn, correlation_taper
from scorda.methods.variational.cost import Background, TrajectoryCost, gaussian_near
from scorda.methods.variational.minimise import Minimum, lbfgs
from scorda.observations.analysis import Analysis
from scorda.observations.problem import Problem
from scorda.observations.unbounded import unbounded_problem
from scorda.systems.linear import LinearGaussian

__all__ = ["FourDVar"]

# How far the minimisation of a window goes that is to be extended.
STAGE_ITERATIONS, STAGE_TOLERANCE = 50, 0.1


@dataclass(frozen=True)
class FourDVar(Assimilator):
    r"""Smoother that minimises the weak-constraint cost of 4D-Var with L-BFGS.

    .. math:: J(x_0 \dots x_L) = \tfrac12 \lVert x_0 - m \rVert^2_{B^{-1}}
        - \sum_k \log p(x_{k+1} \mid x_k) + \tfrac12 \sum_j \lVert y_j - h_j(x) \rVert^2_{R_j^{-1}}

    One member is the mode, for linear-Gaussian problems also the exact posterior mean. More
    members are a sample by randomised maximum likelihood: each minimises J with a background,
    model errors and observations of its own, perturbed with N(0, B), N(0, Q) and N(0, R). They
    are exact draws of the posterior for linear-Gaussian problems; for others they are approximate
    and gather about one mode, from which each starts (or from its perturbed background, where J
    is lower there). Observations of another law than the Gaussian enter the mode with their
    density, and a sample with the Gaussian that has its gradient and curvature at the mode (of
    `StudentT`, `Huber` and `Laplace`, the weight in place of the curvature). If the
    system has no model error its first state alone is controlled (the strong constraint).

    The cost of a chaotic system has many local minima. So the window grows: the observations
    of `growth` more steps are taken in at a time, and each minimum, continued with the model, is
    the start of the next.

    The background is Gaussian: the sample moments of the problem's `initial` ensemble (of any
    size), the exact moments of a `LinearGaussian` system, or else those of `climatology` draws of
    the system's prior, the same for each seed.

    Sources: cost and controls: see ``methods.variational.cost``; growing window: Pires, Vautard &
    Talagrand (1996), Tellus 48A, 96-121; randomised maximum likelihood: Kitanidis (1995), Water
    Resour. Res. 31, 2411-2419. Deviation: the first state is scaled by background and first
    transition together, because the background alone makes the cost stiff where it is vague.

    Arguments:
        iterations: Largest number of iterations of the last minimisation.
        tolerance: It ends where no entry of the gradient by the white controls is larger, or no
            decrease beyond rounding is left.
        growth: Observed steps by which the window grows; None: the whole window at once.
        localization: Taper of the background covariance by distance, for few `initial` members;
            makes a covariance matrix, so for states of up to some thousands of entries.
        climatology: Draws of the prior for a background that is given by neither.
        hybrid: Share of the climatological covariance in that of the `initial` ensemble, or None.

    Raises:
        ValueError: Before the run, if system or operators have no gradient, the model error has no
            density (a singular Q), or the background no spread.
        FloatingPointError: If the cost is not finite at the start.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.FourDVar(iterations=20).assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    iterations: int = 1000
    tolerance: float = 1e-4
    growth: int | None = 1
    localization: GaspariCohn | None = None
    climatology: int = 1000
    hybrid: Hybrid | None = None

    smoother = True
    needs = ("simulator", "differentiable_system", "differentiable_operator")
    in_double = False
    errors = "density"
    exact = "linear-Gaussian"
    cost = Cost(0, note="a gradient of the run per iteration")

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"Got iterations = {self.iterations}: give at least 1.")
        if not self.tolerance > 0:
            raise ValueError(f"Got tolerance = {self.tolerance}: give a positive number.")
        if self.growth is not None and self.growth < 1:
            raise ValueError(f"Got growth = {self.growth}: give at least 1, or None.")
        check_taper(self, self.localization)
        if self.climatology < 2:
            raise ValueError(f"Got climatology = {self.climatology}: a spread needs at least 2.")
        if self.hybrid is not None and self.localization is not None:
            raise ValueError("Got `hybrid` and `localization`: FourDVar takes one of them.")
        if self.hybrid is not None and self.hybrid.weight:
            object.__setattr__(self, "needs", (*type(self).needs, "prior"))

    def assimilate(
        self,
        problem: Problem,
        members: int,
        generator: rng.Seed = None,
        start: Float[Tensor, "..."] | None = None,
    ) -> Analysis:
        """Minimise, one trajectory per member.

        ``info``: ``cost`` at the minimum, ``gradient`` (its largest entry), ``iterations`` (of the
        last minimisation) and ``converged``, per member; ``evaluations`` of J and its gradient,
        mean over members; for the mode ``chi2``, twice the cost per observation, on average 1
        where the problem is linear and all its covariances are right.

        Arguments:
            problem: The problem; a row of observations may have several steps.
            members: 1 for the mode, more for a sample.
            generator: Source of the perturbations; the mode needs none.
            start: First trajectories, ``(time, *state)`` or one per member, such as a sample of
                SDA; of a system without model error their first state is used. The window then
                does not grow.
        """
        check_needs(self, problem)
        check_memory(self, problem, members)
        check_members(self, members)
        space, problem = problem.space, unbounded_problem(problem)
        began = clock.perf_counter()
        background = self._background(problem)
        cost = TrajectoryCost(problem, background, 1)
        forecast = cost.extended(None, problem.steps)
        cost.check_gradient(forecast)
        given = None if start is None else space.unbounded(_given(start, members, forecast))
        evaluations = 0
        if given is None:
            minimum, states = self._mode(cost, problem)
        if members > 1:
            if any(part.model.law is not None for part in problem.instruments):
                if given is not None:
                    _, states = self._minimise(cost, given[:1], self.iterations, self.tolerance)
                near = [gaussian_near(part, states) for part in problem.instruments]
                problem = replace(problem, observations=near)
            evaluations = cost.evaluations
            cost = TrajectoryCost(
                problem, background, members, rng.as_generator(generator), perturbed=True
            )
            if given is None:
                states = cost.nearer(states.expand(members, *states.shape[1:]))
        if given is not None or members > 1:
            first = states if given is None else given
            minimum, states = self._minimise(cost, first, self.iterations, self.tolerance)
        info = {
            "cost": minimum.costs,
            "gradient": minimum.gradients,
            "iterations": minimum.iterations,
            "converged": minimum.converged,
            "evaluations": (evaluations + cost.evaluations) / members,
            "seconds": clock.perf_counter() - began,
        }
        number = sum(int((~part.values.isnan()).sum()) for part in problem.instruments)
        if members == 1 and number:
            info["chi2"] = 2 * float(minimum.costs[0]) / number
        return Analysis(space.bounded(states), space, None, info, self.name, start=problem.start)

    def _mode(self, cost: TrajectoryCost, problem: Problem) -> tuple[Minimum, Tensor]:
        """The mode, in windows that grow."""
        last, states = problem.steps, None
        if self.growth is not None:
            for end in cost.observed[self.growth - 1 :: self.growth]:
                if end < last:
                    first = cost.extended(states, end)
                    _, states = self._minimise(cost, first, STAGE_ITERATIONS, STAGE_TOLERANCE)
        first = cost.extended(states, last)
        return self._minimise(cost, first, self.iterations, self.tolerance)

    def _minimise(
        self, cost: TrajectoryCost, first: Tensor, iterations: int, tolerance: float
    ) -> tuple[Minimum, Float[Tensor, "members time ..."]]:
        """Minimise in the window of the first trajectories."""
        minimum = lbfgs(cost, cost.begin(first), iterations, tolerance)
        with torch.no_grad():
            rows = torch.arange(len(first), device=first.device)
            return minimum, cost.trajectory(minimum.points, rows)

    def _background(self, problem: Problem) -> Background:
        system, space = problem.system, problem.space
        hybrid = self.hybrid if self.hybrid is not None and self.hybrid.weight else None
        if hybrid is not None and problem.initial is None:
            raise ValueError(
                "FourDVar weighs the covariance of `initial` members with that of the "
                "climatology, and there are none: give some, or leave `hybrid` out."
            )
        if problem.initial is None and isinstance(system, LinearGaussian):
            return Background.of(system.mean, system.cov)
        ensemble = problem.initial
        if ensemble is None:
            ensemble = system.prior(self.climatology, rng.seeded(0))
        mean = ensemble.mean(0)
        A = (ensemble - mean).flatten(1) / math.sqrt(max(len(ensemble) - 1, 1))
        if len(ensemble) < 2 or not component_std(ensemble).any():
            raise ValueError(
                f"FourDVar needs a background with spread: {len(ensemble)} initial members "
                "without any give none."
            )
        if hybrid is not None:
            static = hybrid.climatology.of(problem).anomalies.flatten(1)
            joint = hybrid.joint((ensemble - mean).flatten(1), static)
            std = joint.std(0)
            unit = torch.where(std > 0, std, 1.0)
            _, std, modes = torch.linalg.svd(joint / unit, full_matrices=False)
            return Background.kept(mean, std / math.sqrt(len(joint) - 1), modes, unit)
        if self.localization is None:
            std = component_std(ensemble).flatten()
            unit = torch.where(std > 0, std, 1.0)
            _, std, modes = torch.linalg.svd(A / unit, full_matrices=False)
            return Background.kept(mean, std, modes, unit)
        space.check_distances("FourDVar with localization")
        near = correlation_taper(self.localization, space).to(A)
        variables = space.size // len(near)
        return Background.of(mean, A.mT @ A * near.repeat(variables, variables))


def _given(start: Tensor, members: int, like: Tensor) -> Float[Tensor, "members time ..."]:
    """First trajectories that the caller gave."""
    one = like.shape[1:]
    every = (members, *one)
    if start.shape not in (one, every):
        raise ValueError(
            f"Got a start of shape {tuple(start.shape)} for {members} members: give one "
            f"trajectory, {tuple(one)}, or one per member."
        )
    return start.to(like).expand(every)
