r"""Trajectories that are improved by a Markov chain whose law is the exact posterior.

Where one step of a system has a density, a kernel exists that leaves :math:`p(x_{0:n} \mid
y_{0:n})` as it is and moves whole trajectories: a particle filter of which one particle is held on
the trajectory so far, and a path drawn from its final weights in exchange for that trajectory.
After each resampling the held particle also chooses its past anew,

.. math:: P(a = i) \propto w_k^i \, p(x'_{k+1} \mid x_k^i),

so that a trajectory whose end is kept may still change its beginning.

Constant parameters have no density of a step, and given a whole path they are far better known
than given the observations: for rho of Lorenz-63 some 15 times, so that draws of the one given the
other would take hundreds of sweeps. So a sweep tries values with a path of their own each: beside
the filter that holds the trajectory, of particles with its value :math:`\theta_1`, run filters
without a held particle at :math:`\theta_2, \dots, \theta_M`, drawn from a law q that is fixed
(`constant_parameters`), and the new trajectory is a path of filter

.. math:: P(m) \propto \frac{p(\theta_m)}{q(\theta_m)} \hat p(y \mid \theta_m)

with their estimates of the evidence. This is particle marginal Metropolis-Hastings with M - 1
proposals, of which the estimate at the present value is drawn anew by each sweep. States at step 0
are drawn given the value, for which no density is asked.

Source: Lindsten, Jordan & Schön (2014), Particle Gibbs with ancestor sampling, J. Mach. Learn.
Res. 15, 2145-2184, algorithm 2. Deviation: particles are resampled at observed steps alone;
between them their weights are equal and each is its own parent. Parameters: Andrieu, Doucet &
Holenstein (2010), Particle Markov chain Monte Carlo methods, J. R. Stat. Soc. B 72, 269-342.
Deviation: several proposals at once, and M - 1 = 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from scorda.assimilation.base import REQUIREMENTS
from scorda.assimilation.constant_parameters import (
    ConstantParameters,
    having_constants,
    with_constants,
)
from scorda.core import rng
from scorda.core.shapes import Float, Int, Tensor
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.systems.base import forecast

__all__ = ["ConditionalSMC"]

# Filters of a sweep of a system with constant parameters, each with as many of the particles.
TRIED = 4


@dataclass(frozen=True)
class ConditionalSMC:
    """Sweeps of conditional sequential Monte Carlo with ancestor sampling, for each trajectory.

    Exact in the limit of sweeps for any number of particles: for the system, its prior and the
    observations, whatever the trajectories were at first. How many sweeps it takes depends on the
    particles, which start from the prior and follow the system: many more are needed where many
    values are observed, and in large states. A sweep costs ``particles`` steps of the system for
    each step of each trajectory, and as many draws of its prior, each of which may spin up. With
    constant parameters (`WithParameters`) a sweep tries four values of them, each with a quarter
    of the particles; it takes more sweeps then, and more particles for more observations.

    Arguments:
        sweeps: Sweeps of each trajectory, at least 1.
        particles: Particles of each sweep, that of the trajectory included, at least 2.

    Example:
        Trajectories of the system that know of no observation, with `problem` as in
        `twin_experiment`:

        >>> free = problem.system.trajectory(problem.system.prior(4, 0), 16, 1)
        >>> sc.ConditionalSMC(2, 32).improved(free, problem, 2).shape
        torch.Size([4, 17, 3])

        For each member of SDA: ``sc.SDA(prior, polish=sc.ConditionalSMC())``.
    """

    sweeps: int = 8
    particles: int = 256

    def __post_init__(self) -> None:
        if self.sweeps < 1 or self.particles < 2:
            raise ValueError(
                f"Got sweeps = {self.sweeps}, particles = {self.particles}: need at least 1 sweep "
                "and 2 particles."
            )

    def check(self, problem: Problem) -> None:
        """Check that a problem has what the kernel asks for.

        Raises:
            ValueError: If not.
        """
        if not (hasattr(problem.system, "step") and hasattr(problem.system, "prior")):
            raise ValueError(
                "ConditionalSMC needs a system that makes steps and draws first states (--system "
                "in the shell): leave `polish` out."
            )
        for need in ("transition_density", "no_circles"):
            holds, words = REQUIREMENTS[need]
            if not holds(problem):
                raise ValueError(f"ConditionalSMC needs {words}: leave `polish` out.")
        if problem.initial is not None:
            raise ValueError(
                "ConditionalSMC draws first states from the prior of the system: leave `initial` "
                "out of the problem."
            )
        steps = [step for part in problem.instruments for step in part.steps]
        if not all(isinstance(step, int) for step in steps):
            raise ValueError(
                "ConditionalSMC needs observations of single steps, and some are of several, such "
                "as a mean over time: leave `polish` out."
            )
        if having_constants(problem.system) is not None and self.particles < 2 * TRIED:
            raise ValueError(
                f"Got particles = {self.particles} for constant parameters, of which a sweep "
                f"tries {TRIED} values: give at least {2 * TRIED}."
            )
        x = problem.drawn(1, 0)
        try:
            problem.system.at(0).log_transition(x, x)
        except TypeError as error:
            raise ValueError(f"ConditionalSMC: {error}") from None

    def improved(
        self,
        paths: Float[Tensor, "ensemble time *state"],
        problem: Problem,
        generator: rng.Seed = None,
    ) -> Float[Tensor, "ensemble time *state"]:
        """Return the trajectories after all sweeps, of the same shape.

        Raises:
            ValueError: If the problem has not what the kernel asks for (`check`).
        """
        self.check(problem)
        key = rng.key(generator)
        paths = with_constants(paths, problem.system)
        law = ConstantParameters.of(problem.system, paths)
        for sweep in range(self.sweeps):
            paths = self._swept(paths, problem, law, rng.at(key, sweep))
        return paths

    def _swept(
        self,
        held: Float[Tensor, "ensemble time ..."],
        problem: Problem,
        law: ConstantParameters | None,
        generator: rng.Seed,
    ) -> Float[Tensor, "ensemble time ..."]:
        start, error, choice = rng.spawn(generator, 3)
        observed = problem.observed()
        # A row for each filter; those with a trajectory have it as their first particle.
        x = self._started(held, problem, law, start)
        own = slice(None, None, len(x) // len(held))
        fixed = None if law is None else law.system.unchanging.to(x.device)
        evidence = None if law is None else law.log_ratio(x[:, 0])
        states, parents = [x], {}
        log_w = _log_weights(observed, x, 0)
        for k in range(1, problem.steps + 1):
            if log_w is not None:
                evidence = None if evidence is None else evidence + log_w.double().logsumexp(1)
                parents[k] = self._parents(problem, log_w, x, own, held[:, k], k, choice)
                x = _taken(x, parents[k])
            moved = forecast(problem.system, x.flatten(0, 1), error, k - 1).view_as(x)
            # Bit for bit, also through the transforms of bounds.
            moved = moved.clone() if fixed is None else moved.where(~fixed, x)
            moved[own, 0] = held[:, k]
            x = moved
            states.append(x)
            log_w = _log_weights(observed, x, k)
        final = _without_lost(x.new_zeros(x.shape[:2]).double(), x) if log_w is None else log_w
        if evidence is not None:
            evidence = (evidence + final.double().logsumexp(1)).view(len(held), -1)
            chosen = _drawn(evidence, 1, choice)[:, 0]
            rows = chosen + torch.arange(0, len(x), evidence.shape[1], device=x.device)
            states, final = [x[rows] for x in states], final[rows]
            parents = {k: of[rows] for k, of in parents.items()}
        line = _drawn(final, 1, choice)
        path = []
        for k in reversed(range(problem.steps + 1)):
            path.append(_taken(states[k], line))
            if k in parents:
                line = parents[k].gather(1, line)
        return torch.cat(path[::-1], 1)

    def _started(
        self,
        held: Float[Tensor, "ensemble time ..."],
        problem: Problem,
        law: ConstantParameters | None,
        generator: rng.Seed,
    ) -> Float[Tensor, "filters particles ..."]:
        """Return the first states of all filters, of which those of trajectories hold theirs."""
        if law is None:
            count, free = len(held), self.particles - 1
            x = problem.drawn(count * free, generator).to(held)
            return torch.cat([held[:, :1], x.view(count, free, *held.shape[2:])], 1)
        return law.started(held[:, 0], TRIED, self.particles // TRIED, generator)

    def _parents(
        self,
        problem: Problem,
        log_w: Float[Tensor, "filters particles"],
        x: Float[Tensor, "filters particles ..."],
        own: slice,
        held: Float[Tensor, "ensemble ..."],
        step: int,
        choice: torch.Generator,
    ) -> Int[Tensor, "filters particles"]:
        """Draw the parents of the particles at a step, that of the held one among all."""
        system = problem.system.at(step - 1)
        before = x[own]
        repeated = held[:, None].expand_as(before).flatten(0, 1)
        density = system.log_transition(before.flatten(0, 1), repeated).view(before.shape[:2])
        first = log_w.double().clone()
        first[own] = _without_lost(first[own] + density.double(), before)
        parent = _drawn(first, 1, choice)
        return torch.cat([parent, _drawn(log_w, log_w.shape[1] - 1, choice)], 1)


def _log_weights(
    observed: Mapping[int, tuple[Tensor, ObservationModel]],
    x: Float[Tensor, "ensemble particles ..."],
    step: int,
) -> Float[Tensor, "ensemble particles"] | None:
    """Log likelihood of each particle where something is observed."""
    if step not in observed:
        return None
    y, model = observed[step]
    return _without_lost(model.log_likelihood(y.to(x), x.flatten(0, 1)).view(x.shape[:2]), x)


def _without_lost(
    log_w: Float[Tensor, "ensemble particles"], x: Float[Tensor, "ensemble particles ..."]
) -> Float[Tensor, "ensemble particles"]:
    """Give no weight to particles that the system has driven beyond all numbers."""
    kept = x.flatten(2).isfinite().all(2)
    return torch.where(kept, log_w, -torch.inf)


def _drawn(
    log_w: Float[Tensor, "ensemble particles"], draws: int, generator: torch.Generator
) -> Int[Tensor, "ensemble draws"]:
    """Draw particles of each trajectory in proportion to their weights."""
    total = log_w.softmax(1).cumsum(1)
    u = rng.uniform(len(log_w), (draws,), generator, like=total) * total[:, -1:]
    return torch.searchsorted(total, u, right=True).clamp_max(log_w.shape[1] - 1)


def _taken(x: Float[Tensor, "ensemble particles ..."], which: Int[Tensor, "ensemble n"]) -> Tensor:
    """Return some particles of each trajectory."""
    return x[torch.arange(len(x), device=x.device)[:, None], which]
