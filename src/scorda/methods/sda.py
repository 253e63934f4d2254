r"""Score-based data assimilation: samples of whole trajectories given all observations.

One prior of trajectories, trained once, takes in at sampling time whatever was observed: no
retraining, no call of the dynamical system. The pieces are a prior (composed or fully
convolutional over time, `priors`, `nn`), a `guidance` and one of the `samplers`. Observed
entries of the state need no guidance where the prior knows a noise level per entry (`merging`).

Source: Rozet & Louppe (2023), Score-based data assimilation, arXiv:2306.10574. Deviation:
`merging`, unless a guidance is named.
"""

from __future__ import annotations

import math
import time as clock
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, cast

import torch

from scorda.assimilation.base import Assimilator, Cost, check_needs
from scorda.assimilation.conditional_smc import ConditionalSMC
from scorda.assimilation.constant_parameters import having_constants, with_constants
from scorda.core import rng
from scorda.core.errors import DivergenceError
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.batches import at_once
from scorda.diffusion.denoisers import Conditioned, Denoiser, NetworkDenoiser, SwitchedDenoiser
from scorda.diffusion.guidance import MMPS, Guidance, InflatedLikelihood
from scorda.diffusion.samplers import PredictorCorrector, Sampler
from scorda.diffusion.twisted import TRUSTED, Twisted, spread_of_evidence, untrusted
from scorda.diffusion.twists import StandardLikelihood
from scorda.observations.analysis import Analysis
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Select
from scorda.observations.problem import Problem
from scorda.observations.unbounded import unbounded_observations
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.priors.observed import merge_entries, observes_entries, trajectory_model
from scorda.priors.trained_on import other_settings
from scorda.priors.trajectory import Prior
from scorda.systems.linear import LinearGaussian

__all__ = ["SDA", "WindowForecast"]

# Error of the states that a forecast goes on from, in standard deviations of the prior.
KNOWN = 0.01

# Members that are polished together.
POLISHED = 64

# Standard deviations of the climate beyond which a member is no rare event, but lost.
LOST = 100.0


@dataclass(frozen=True)
class SDA(Assimilator):
    """Smoother with a prior of trajectories, zero-shot in the observations.

    Exact in the limit of many steps for a Gaussian prior and linear operators with `MMPS`, and for
    every exact prior where single entries are observed; otherwise as approximate as its prior and
    its guidance (see there). Two settings correct it, at a price: the sampler `Twisted` weights
    members against the prior as learned, `polish` moves them by the system itself.

    Arguments:
        prior: Prior of trajectories, such as ``load("lorenz63")`` or
            ``GaussianTrajectory.of(system, n)``.
        guidance: How observations enter. ``InflatedLikelihood()`` is the paper's form. Default:
            the prior's. Without one the paper's, but entries of the state with errors of their
            own are merged (``Conditioned``) if the prior allows it, at noise levels above its
            `handover`. With the sampler `Twisted` it is ``StandardLikelihood()``, and nothing is
            merged.
        sampler: A sampler of independent members, or `Twisted`. Default: the prior's.
        chunk: Members computed at once; bounds the memory, leaves the samples as they are, bit
            for bit. It is rounded up to a multiple of 8, at least 16. Default: 128 members, or
            as many as have 2^18 numbers in all, at least one; where that is fewer than 16 it is
            always so many.
        precision: "float32", or "bfloat16" for the products and convolutions of the prior's
            network, for a processor that has it.
        polish: Sweeps of `ConditionalSMC` that each member then takes with the system of the
            problem, whose steps must have a density. None: the system is not used.

    Example:
        With the shipped prior, and `problem` as in `twin_experiment`:

        >>> analysis = sc.SDA(sc.load("lorenz63")).assimilate(problem, members=4, generator=0)
        >>> analysis.states.shape
        torch.Size([4, 17, 3])
    """

    prior: Prior
    guidance: Guidance | None = None
    sampler: Sampler | Twisted | None = None
    chunk: int | None = None
    precision: str = "float32"
    polish: ConditionalSMC | None = None
    smoother = True
    needs = ("differentiable_operator",)
    in_double = False
    errors = "density"
    exact = "Gaussian prior with MMPS, steps → ∞"
    cost = Cost(0, note="a network per step of its sampler")

    @classmethod
    def example(cls, problem: Problem) -> SDA:
        """Return an instance for a linear-Gaussian problem, with the exact prior of its paths."""
        prior = GaussianTrajectory.of(cast(LinearGaussian, problem.system), problem.steps)
        sampler = PredictorCorrector(32, corrections=0)
        return cls(prior, guidance=MMPS(4, bound=None), sampler=sampler)

    def assimilate(
        self,
        problem: Problem,
        members: int,
        generator: rng.Seed = None,
        report: Callable[[int, int], None] | None = None,
    ) -> Analysis:
        """Draw trajectories from the posterior, in the precision of the observed values.

        Without any value it is torch's default. A network computes in the precision of its
        weights; the sampler around it, guidance and merging do not. All are computed, and
        returned, on the device of the prior (`Prior.to`).

        Arguments:
            problem: Its system is used by `polish` alone; else only its space and observations.
            members: Number of trajectories.
            generator: Source of randomness.
            report: Called with (evaluations done, evaluations in all).

        Raises:
            ValueError: If problem and prior have different spaces or parameters; the problem has
                an initial ensemble, which this method has no place for; or its system has no
                steps with a density, which `polish` needs.
            DivergenceError: If the sampler has lost members.
        """
        analysis = self.assimilate_members(problem, 0, members, generator, report)
        if "roots" in analysis.info:
            spread = spread_of_evidence(analysis.info["log_evidence"].tolist())[1]
            if spread > TRUSTED:
                warnings.warn(untrusted(spread), stacklevel=2)
        return analysis

    def assimilate_members(
        self,
        problem: Problem,
        first: int,
        last: int,
        generator: rng.Seed = None,
        report: Callable[[int, int], None] | None = None,
    ) -> Analysis:
        """Members ``first`` to ``last - 1`` of the ensemble that belongs to the generator."""
        check_needs(self, problem)
        space = self.prior.space
        same = (problem.space.shape, problem.space.dt) == (space.shape, space.dt)
        ours, theirs = problem.space.parameters, space.parameters
        # States alone do not tell what is a parameter, and a plain prior of them may be used.
        if ours != theirs and (self.polish is not None or not same or (ours and theirs)):
            raise ValueError(
                f"The problem has {_named(ours)}, the prior {_named(theirs)}: give both the same "
                "(`WithParameters`; in the shell --parameter name=LAW for each, of train too)."
            )
        if not same:
            raise ValueError(
                f"The problem has states of shape {problem.space.shape} with dt "
                f"{problem.space.dt}, the prior {space.shape} with dt {space.dt}: use a prior "
                "that was trained on this system."
            )
        if other := other_settings(self.prior, problem.system):
            warnings.warn(other, stacklevel=2)
        if problem.initial is not None:
            raise ValueError(
                "SDA draws the first state from its prior: leave `initial` out of the problem."
            )
        if self.polish is not None:
            self.polish.check(problem)
        # Sweeps move whole groups; `Twisted` draws its own.
        size = 1 if self.polish is None else POLISHED
        low, high = first - first % size, -(-last // size) * size
        began, generator = clock.perf_counter(), rng.as_generator(generator)
        with torch.no_grad():
            z, info = self._drawn(problem, low, high, generator, report)
        _check_kept(z, low)
        states = space.bounded(self.prior.standardisation.inverse(z))
        if self.polish is not None:
            states, told = self._polished(problem, states, low, generator)
            info |= told
        info["seconds"] = clock.perf_counter() - began
        states = states[first - low : last - low]
        return Analysis(states, space, None, info, "SDA", start=problem.start)

    @property
    def together(self) -> int:
        """Number of members drawn together, in whole groups, or 1 if they are independent."""
        group = self.sampler.group if isinstance(self.sampler, Twisted) else 1
        return group if self.polish is None else math.lcm(group, POLISHED)

    def _drawn(
        self,
        problem: Problem,
        first: int,
        last: int,
        generator: rng.Seed,
        report: Callable[[int, int], None] | None,
    ) -> tuple[Float[Tensor, "ensemble time ..."], dict[str, Any]]:
        """Standardised trajectories, and a report."""
        sampler = self.sampler or self.prior.sampler
        shape = (problem.steps + 1, *self.prior.space.shape)
        denoiser, process = self._posterior(problem, shape), self.prior.process
        like = _precision(problem, self.prior.device)
        if isinstance(sampler, Twisted):
            return sampler.draw(denoiser, process, shape, first, last, generator, like, report)
        chosen = self.guidance or self.prior.guidance
        products = 0 if chosen is None else chosen.products
        z = sampler.sample(
            denoiser,
            process,
            shape,
            last - first,
            generator,
            chunk=at_once(shape) if self.chunk is None else self.chunk,
            like=like,
            report=report,
            first=first,
        )
        return z, {"evaluations": sampler.evaluations * (1 + products)}

    def _polished(
        self, problem: Problem, states: Tensor, first: int, generator: rng.Seed
    ) -> tuple[Float[Tensor, "ensemble time ..."], dict[str, Any]]:
        """The trajectories after the sweeps, and of each group the shares that are new."""
        assert self.polish is not None
        key, found, known = rng.key(generator), [], having_constants(problem.system)
        renewed: dict[str, list[float]] = {"renewed": []}
        if known is not None:
            renewed["renewed_parameters"] = []
        for number, group in enumerate(states.split(POLISHED), first // POLISHED):
            moved = self.polish.improved(group, problem, rng.at(key, number))
            found.append(moved)
            changed = (moved != with_constants(group, problem.system)).flatten(2)
            renewed["renewed"].append(float(changed.any(2).double().mean()))
            if known is not None:
                own = changed[:, 0, known.unchanging.to(changed.device)]
                renewed["renewed_parameters"].append(float(own.any(1).double().mean()))
        steps = self.polish.sweeps * self.polish.particles * problem.steps
        shares = {name: torch.tensor(of) for name, of in renewed.items()}
        return torch.cat(found), {**shares, "model_steps": steps}

    def _posterior(self, problem: Problem, shape: tuple[int, ...]) -> Denoiser:
        """Denoiser of standardised trajectories given everything observed."""
        prior: Denoiser = self.prior.denoiser(shape[0])
        if isinstance(prior, NetworkDenoiser):
            prior = replace(prior, precision=self.precision)
        elif self.precision != "float32":
            raise ValueError(
                f"Got precision = {self.precision!r} for {type(self.prior).__name__}, which has "
                'no network: leave it at "float32".'
            )
        space = self.prior.space
        instruments = tuple(unbounded_observations(part, space) for part in problem.instruments)
        chosen = self.guidance or self.prior.guidance
        if isinstance(self.sampler, Twisted) and self.guidance is None:
            # Another guidance is no twist, or too narrow a one.
            chosen = StandardLikelihood()
        guidance = chosen or InflatedLikelihood()

        def guided(denoiser: Denoiser, parts: tuple[Observations, ...]) -> Denoiser:
            y, model = trajectory_model(parts, self.prior.standardisation)
            return guidance.bind(denoiser, y, model) if len(y) else denoiser

        entries = tuple(part for part in instruments if observes_entries(part))
        if chosen is not None or not entries or not self.prior.per_entry:
            return guided(prior, instruments)
        merged = Conditioned(prior, *merge_entries(entries, self.prior.standardisation, shape))
        rest = tuple(part for part in instruments if not observes_entries(part))
        above = guided(merged, rest)
        if self.prior.handover == 0:
            return above
        return SwitchedDenoiser(above, guided(prior, instruments), self.prior.handover)


@dataclass(frozen=True)
class WindowForecast(Assimilator):
    r"""Forecast of a prior of trajectories: the window moved on, conditioned on its end.

    Member i is a draw of :math:`p(x_{1:n} \mid x_{-c+1:0})`, given its own last c states, by SDA
    with these as observations of every entry, of an error of 0.01 standard deviations of the
    prior; state 0 is then set to the last of them. As exact as SDA is, where c states tell all
    that the past tells of the future. Nothing is corrected: members are forecast one by one.

    Arguments:
        sda: Prior, guidance and sampler.
        past: Last states of each member, ``(ensemble, c, *state)``.
    """

    sda: SDA
    past: Float[Tensor, "ensemble c ..."]

    in_double = False

    def assimilate(self, problem: Problem, members: int, generator: rng.Seed = None) -> Analysis:
        """Draw the states that follow, ``(members, steps + 1, *state)``."""
        return self.assimilate_members(problem, 0, members, generator)

    def assimilate_members(
        self, problem: Problem, first: int, last: int, generator: rng.Seed = None
    ) -> Analysis:
        """Members ``first`` to ``last - 1`` of the ensemble that belongs to the generator.

        Raises:
            ValueError: If there are fewer members of the past, or observations.
        """
        if last > len(self.past) or problem.observed():
            raise ValueError(
                f"A forecast is of the {len(self.past)} members that it goes on from, without "
                f"observations: got {last} members, {len(problem.observed())} observed steps."
            )
        # Not the noise that has drawn the past, where that has the same seed.
        key, known = rng.key(generator), self.past.shape[1]
        space, scaled = problem.space, self.sda.prior.standardisation
        entries = space.inside.nonzero()[:, 0]
        std = KNOWN * scaled.std.expand(space.shape).flatten()[entries]
        model = ObservationModel(Select(entries.tolist()), std=std)
        found, began = [], clock.perf_counter()
        sampler = None if isinstance(self.sda.sampler, Twisted) else self.sda.sampler
        sda = replace(self.sda, sampler=sampler, polish=None)
        for i in range(first, last):
            values = self.past[i].flatten(1)[:, entries]
            seen = Observations(model, range(known), values)
            window = Problem(self.sda.prior, seen, known - 1 + problem.steps)
            made = sda.assimilate_members(window, i, i + 1, rng.at(key, 1)).states
            found.append(made[:, known - 1 :])
        states = torch.cat(found)
        states[:, 0] = self.past[first:last, -1].to(states)
        info = {"seconds": clock.perf_counter() - began}
        return Analysis(states, space, None, info, self.name)


def _named(parameters: tuple[str, ...]) -> str:
    """Name parameters in a sentence."""
    return f"the parameters {', '.join(parameters)}" if parameters else "no parameters"


def _check_kept(z: Float[Tensor, "ensemble ..."], first: int) -> None:
    """Check that no standardised member, of which the first has this number, is lost."""
    if z.is_meta:
        # It has no numbers.
        return
    lost = (~(z.flatten(1).abs().amax(1) < LOST)).nonzero().flatten() + first
    if len(lost):
        raise DivergenceError(
            f"{len(lost)} of {len(z)} members left the climate of the prior by more than "
            f"{LOST:.0f} standard deviations, the first is member {int(lost[0])}; bound the "
            "guidance, as in MMPS(12, bound=3.0), give the sampler more noise levels, or train "
            "the prior longer.",
            members=tuple(lost.tolist()),
        )


def _precision(problem: Problem, device: torch.device) -> Tensor:
    """An empty tensor on a device, in the precision of the observed values."""
    dtypes = [part.values.dtype for part in problem.instruments] or [torch.get_default_dtype()]
    return torch.zeros(0, dtype=reduce(torch.promote_types, dtypes), device=device)
