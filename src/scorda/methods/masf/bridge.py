r"""MASF, the measurement-aware score-based filter, in an exact form: the bridge.

A forward process is chosen whose end is the measurement itself (`diffusion.measurement_aware`),
so the state that is to be denoised, x_1, is the one that the instrument returned. Let p_t be the
law of x_t under the prior. Given y, the law of x_t is
:math:`\pi_t \propto p_t \, p(y \mid x_t)`, whose score is indeed the sum of the two scores.

**Why the measurement must not be added again.** x_0, x_t and x_1 = y are a Markov chain in this
order. Conditioning it on its end changes its *forward* drift too, from F x to
:math:`F x + G G^T g` with :math:`g = \nabla \log p(y \mid x_t)` (Doob's transform). The time
reversal of the conditioned chain therefore has the drift
:math:`(F x + G G^T g) - G G^T (\nabla \log p_t + g) = F x - G G^T \nabla \log p_t`: the likelihood
score cancels. Started at y, the reversal with the *prior's* score alone has exactly the posterior
as its end. A sampler that puts :math:`\nabla \log p_t + g` into the drift of the unconditional
process uses the right marginal score in the wrong equation and so counts the observation twice: in
the direction of a scalar observation of variance R, a prior variance P and continuous time it
ends with the variance

.. math:: \frac{P^2}{R^2} \left[ \frac{c^2}{P} - P - 2 c \log \frac{c}{P} \right], \quad c = P + R,

which is R / 3 for a wide prior, where R is right, and 0.46 of the exact variance for P = R. The
idea of the paper, the measurement as the end of the process, is what makes the exact form possible
at all; `PublishedMASF` keeps the other one for comparison. This concerns the authors' public code
and main figure; the paper's own text of the sampler was not available to us.

Source: MASF, arXiv 2604.02889, and its public code. Our own: the proof above, the spectral form
for any linear operator (`observations.modes`), the information form of the reversal and the
coupling to the forecast members (`diffusion.bridge`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from scorda.assimilation.base import Cost
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace, variable_std
from scorda.diffusion.bridge import BridgeODE, BridgeSampler
from scorda.observations.augmentation import AugmentedSpace, augment
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem
from scorda.priors.base import EnsemblePrior, PriorRun
from scorda.priors.gaussian import Gaussian
from scorda.priors.local import FittedLocal, LocalGaussian
from scorda.priors.prior_filter import PriorFilter, PriorFilterRun

__all__ = ["MASF"]


@dataclass(frozen=True)
class MASF(PriorFilter):
    r"""Measurement-aware score-based filter: the bridge from the observation to the state.

    The time reversal of the measurement-aware process starts at the observation and adds no
    guidance. It is exact for the prior that it is given, up to the steps of the sampler, for every
    linear operator and every R. By default the analysis is coupled to the members of the
    forecast, which adds no sampling error. Any other operator, also a black box, is linear in the
    state augmented with its simulated observation (`augment`; ``PairsOnGrid`` where a prior of
    entries has values at every grid point). The filter is then exact for the prior of the pairs,
    which is made of the members and their simulated observations.

    For a nonlinear h take a kernel prior, or a Gaussian where members are few; `ScoreFilter` where
    h has a gradient, members are many and the observation is precise (docs/nonlinear.md).

    Source and derivation: the docstring of the module.

    Arguments:
        prior: Kind of the prior that is fitted to the forecast ensemble.
        sampler: Walk from the observation to the analysis.
        inflation: Factor of the analysis anomalies, at least 1, or an inflation (`RTPS`, ...).

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.MASF().assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    prior: EnsemblePrior = field(default_factory=Gaussian)
    sampler: BridgeSampler = field(default_factory=BridgeODE)
    needs: tuple[str, ...] = field(default=("simulator",), init=False, repr=False, compare=False)

    least_members = 2
    errors = "linearised_errors"
    exact = "linear-Gaussian, N → ∞"
    cost = Cost(0, 74)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sampler, BridgeSampler):
            raise ValueError(
                f"Got {self.sampler}: the samplers of MASF are of BridgeSampler, such as "
                "BridgeODE."
            )
        needs = ["simulator"]
        if self.prior.of_entries:
            needs += ["nonlinear_positions", "independent_errors"]
        elif getattr(self.prior, "localization", None) is not None:
            needs += ["nonlinear_positions"]
        object.__setattr__(self, "needs", tuple(needs))

    def bytes_of_prior(self, problem: Problem) -> int:
        # Its denoiser is used in single precision for states of it.
        return problem.dtype.itemsize if isinstance(self.prior, LocalGaussian) else 8

    def prepared(self, prior: PriorRun, space: StateSpace | None) -> PriorFilterRun:
        return _Run(prior, space, self)


@dataclass(frozen=True)
class _Run(PriorFilterRun):
    """One run of MASF."""

    settings: MASF

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, ``evaluations`` per member, and what the prior reports."""
        # In double precision: precisions of modes span many orders of magnitude. A prior that has
        # a form for states in single precision, whose error is their rounding, is used in it.
        states, values = forecast.double(), y.double()
        single = forecast.dtype == torch.float32
        report: dict[str, Any] = {}
        if model.operator.linear:
            moved, report = self._linear(states, values, model, self.space, generator, single)
        elif joint := augment(states, values, model, self.space, self.settings.prior.of_entries):
            pairs, told, linear = joint.ensemble, joint.y, joint.model
            moved, report = self._linear(pairs, told, linear, joint.space, generator, single)
            moved = joint.states(moved)
        else:
            moved = states
        info = {"evaluations": self.settings.sampler.evaluations, **report}
        return moved.to(forecast), info

    def _linear(
        self,
        states: Tensor,
        y: Tensor,
        model: ObservationModel,
        space: StateSpace | AugmentedSpace | None,
        generator: torch.Generator | None,
        single: bool = False,
    ) -> tuple[Tensor, dict[str, Any]]:
        """The analysis with a linear operator, and the report of the prior."""
        modes = model.modes(tuple(states.shape[1:]), self._unit(states, space))
        denoiser = self.prior.fit(states, modes, space)
        if single and isinstance(denoiser, FittedLocal):
            denoiser = denoiser.single()
        members = modes.forward(states)
        moved = self.settings.sampler.sample(
            denoiser, modes.precision.to(members), modes.information(y), members, generator
        )
        return modes.inverse(moved), getattr(denoiser, "report", {})

    def _unit(
        self, states: Tensor, space: StateSpace | AugmentedSpace | None
    ) -> Float[Tensor, "..."] | None:
        """Units in which the modes are orthonormal; None: those of the state, which has one."""
        if self.settings.prior.in_units_of_state or isinstance(space, AugmentedSpace):
            # Values of the pairs have one unit, and no mode mixes them with entries.
            return None
        if space is not None and len(space.variables) == 1:
            return None
        std = variable_std(states, space)
        return torch.where(std > 0, std, 1.0)
