r"""MASF: the measurement-aware score-based filter, in an exact form and as published.

A forward process is chosen whose end is the measurement itself (`measurement_aware`), so the state
that is to be denoised, x_1, is what the instrument returned. Let p_t be the law of x_t under the
prior. Given y, the law of x_t is :math:`\pi_t \propto p_t \, p(y \mid x_t)`, whose score is indeed
the sum of the two scores.

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
at all; ``mode="published"`` keeps the other one for comparison. This concerns the authors' public
code and main figure; the paper's own text of the sampler was not available to us.

Source: MASF, arXiv 2604.02889, and its public code. Our own: the proof above, the spectral form
for any linear operator (`modes`), the information form of the reversal and the coupling to the
forecast members (`bridge`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn import functional as F

from scorda.assimilation.base import Cost
from scorda.assimilation.kalman_algebra import inflate, innovation_statistics, white_innovation
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.diffusion.bridge import BridgeODE, BridgeSampler, EnsembleDenoiser
from scorda.diffusion.measurement_aware import MeasurementAware
from scorda.methods.masf.nonlinear import ProjectionSDE
from scorda.methods.masf.published import PublishedSDE, square_form
from scorda.observations.augmentation import AugmentedSpace, augment
from scorda.observations.model import ObservationModel
from scorda.observations.modes import Modes
from scorda.priors.base import EnsemblePrior
from scorda.priors.gaussian import EnsembleGaussian
from scorda.priors.heads import heads_of
from scorda.priors.prior_filter import PriorFilter

__all__ = ["MASF"]


# Of each mode: which samplers it takes, its own, and what it needs of a problem.
SAMPLERS: dict[str, tuple[type, Callable[[], Any], tuple[str, ...]]] = {
    "bridge": (BridgeSampler, BridgeODE, ()),
    "published": (PublishedSDE, PublishedSDE, ("linear_operator", "independent_errors")),
    "nonlinear": (ProjectionSDE, ProjectionSDE, ("independent_errors",)),
}


@dataclass(frozen=True)
class MASF(PriorFilter):
    r"""Measurement-aware score-based filter.

    ``mode="bridge"`` (default) starts the time reversal of the measurement-aware process at the
    observation and adds no guidance: exact for the prior that it is given, up to the steps of the
    sampler, for every linear operator and every R. By default the analysis is coupled to the
    members of the forecast; no sampling error is added then. Any other operator, a black box too,
    is linear in the state augmented with its simulated observation (`augment`; `on_grid` where a
    prior of entries has values at every grid point): exact for the prior of the pairs, which is
    what the members and their simulated observations make of it.

    ``mode="published"`` adds the likelihood's score, as the public code does, which counts the
    observation twice: where the observation is at least as precise as the prior, the variance is
    0.33 to 0.46 of the exact one, and the mean is too close to the observation. It takes what the
    paper's process can do: operators that pick entries, or symmetric matrices with eigenvalues in
    [0, 1], and one error std. It is here for comparison.

    ``mode="nonlinear"`` is the published form for nonlinear operators (`projection`): for black
    boxes too, of any number of values, with independent errors. States and values are
    standardised; where there are fewer values than entries the remaining ones are noise, where
    there are more the state is filled up with zeros. Where h is linear, and elsewhere with the
    same prior, ``mode="bridge"`` is exact and this is not. It, too, is here for comparison; with
    localization it takes no absent values.

    For a nonlinear h take ``mode="bridge"`` with a kernel prior, or with a Gaussian where members
    are few, rather than ``mode="nonlinear"``; `ScoreFilter` where h has a gradient, members are
    many and the observation is precise (docs/nonlinear.md).

    Source and derivation: the module's docstring.

    Arguments:
        prior: What is made of the forecast ensemble.
        mode: "bridge", "published" or "nonlinear".
        sampler: A `BridgeSampler`, a `PublishedSDE` or a `ProjectionSDE` (default: the mode's
            own).
        inflation: Factor of the analysis anomalies, at least 1.
    """

    prior: EnsemblePrior = field(default_factory=EnsembleGaussian)
    mode: Literal["bridge", "published", "nonlinear"] = "bridge"
    sampler: BridgeSampler | PublishedSDE | ProjectionSDE | None = None
    needs: tuple[str, ...] = field(default=("simulator",), init=False, repr=False, compare=False)

    least_members = 2
    exact = "linear-Gaussian, N → ∞ (bridge)"
    cost = Cost(1, 74)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in SAMPLERS:
            raise ValueError(f"Got mode = {self.mode!r}: choose one of {list(SAMPLERS)}.")
        kind, default, needs = SAMPLERS[self.mode]
        if self.prior.of_entries or getattr(self.prior, "localization", None) is not None:
            needs = (*needs, "nonlinear_positions")
        if self.prior.of_entries and "independent_errors" not in needs:
            needs = (*needs, "independent_errors")
        object.__setattr__(self, "needs", ("simulator", *needs))
        if self.sampler is None:
            object.__setattr__(self, "sampler", default())
        elif not isinstance(self.sampler, kind):
            raise ValueError(
                f'Got {self.sampler} for mode="{self.mode}": its samplers are of {kind.__name__}.'
            )

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and what is reported of this cycle.

        ``innovation``, ``chi2``, ``evaluations`` of the denoiser per member, and what the prior
        reports: the losses of a network.
        """
        assert self.sampler is not None
        # In double precision: precisions of modes span many orders of magnitude.
        states, values = forecast.double(), y.double()
        report: dict[str, Any] = {}
        if isinstance(self.sampler, ProjectionSDE):
            moved, report = self._projected(self.sampler, states, values, model, generator)
        elif model.operator.linear:
            moved, report = self._linear(states, values, model, self._space, generator)
        elif joint := augment(states, values, model, self._space, self.prior.of_entries):
            pairs, told, linear = joint.ensemble, joint.y, joint.model
            moved, report = self._linear(pairs, told, linear, joint.space, generator)
            moved = joint.states(moved)
        else:
            moved = states
        statistics = innovation_statistics(*white_innovation(forecast, y, model))
        info = {**statistics, "evaluations": self.sampler.evaluations, **report}
        return inflate(moved.to(forecast), self.inflation), info

    def _linear(
        self,
        states: Tensor,
        y: Tensor,
        model: ObservationModel,
        space: StateSpace | AugmentedSpace | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, dict[str, Any]]:
        modes = model.modes(tuple(states.shape[1:]))
        denoiser = self.prior.fit(states, modes, space)
        members = modes.forward(states)
        if isinstance(self.sampler, PublishedSDE):
            moved = self._published(self.sampler, denoiser, modes, members, y, model, generator)
        else:
            assert isinstance(self.sampler, BridgeSampler)
            precision = modes.precision.to(members)
            moved = self.sampler.sample(
                denoiser, precision, modes.information(y), members, generator
            )
        return modes.inverse(moved), getattr(denoiser, "report", {})

    def _projected(
        self,
        sampler: ProjectionSDE,
        states: Tensor,
        y: Tensor,
        model: ObservationModel,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, dict[str, Any]]:
        if model.cov is not None:
            raise ValueError(
                'MASF with mode="nonlinear" takes independent errors of observation: give `std` '
                'instead of `cov`, or use mode="bridge".'
            )
        flat = states.flatten(1)
        predicted = model.operator(states).flatten(1).to(flat)
        if not (predicted.std(0) > 0).any():
            return states, {}
        entries = max(flat.shape[1], predicted.shape[1])
        std = model.error_std(tuple(y.shape), flat)
        x, h, errors = _pairs(flat, predicted, std)
        (_, centre, unit), (_, level, scale) = _standardised(flat), _standardised(predicted)
        space = None
        if self._space is not None:
            every = torch.arange(predicted.shape[1])
            space = AugmentedSpace(self._space, model.operator, every)
        seen = _filled(torch.ones_like(std), entries)
        z = _filled((y - level) / scale, entries)

        def simulate(draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return _pairs(
                draws.to(flat).flatten(1), model.operator(draws).flatten(1).to(flat), std
            )

        heads = heads_of(self.prior, x, h, space, errors, simulate)
        noise = rng.Stream(rng.key(generator), 0, len(x), (entries,), x)
        moved = sampler.sample(heads, z, errors, (x, h), seen, noise)[:, : flat.shape[1]]
        return (centre + unit * moved).view_as(states), getattr(heads, "report", {})

    @staticmethod
    def _published(
        sampler: PublishedSDE,
        denoiser: EnsembleDenoiser,
        modes: Modes,
        members: Tensor,
        y: Tensor,
        model: ObservationModel,
        generator: torch.Generator | None,
    ) -> Tensor:
        shape = tuple(members.shape[1:])
        gain, z, seen, std = square_form(model, modes, y, shape)
        process = MeasurementAware(gain, torch.full_like(gain, std), offset=sampler.offset)
        noise = rng.Stream(rng.key(generator), 0, len(members), shape, members)
        # What is not observed is measured as noise of the same std, alike for all members.
        z = torch.where(seen, z, std * rng.normal(1, shape, generator, like=members)[0])
        return sampler.sample(denoiser, process, z, members, noise)


def _standardised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries with mean 0 and variance 1 (a constant one stays 0), their mean and their unit."""
    mean, std = x.mean(0), x.std(0)
    unit = torch.where(std > 0, std, 1.0)
    return (x - mean) / unit, mean, unit


def _pairs(flat: Tensor, predicted: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States, simulated observations and errors in standardised vectors of one length."""
    (x, _, _), (h, _, scale) = _standardised(flat), _standardised(predicted)
    entries = max(x.shape[1], h.shape[1])
    seen, std = _filled(torch.ones_like(std), entries), std / scale
    filled = torch.where(seen > 0, _filled(std, entries), std.mean())
    return _filled(x, entries), _filled(h, entries), filled


def _filled(x: Tensor, entries: int) -> Tensor:
    return F.pad(x, (0, entries - x.shape[-1]))
