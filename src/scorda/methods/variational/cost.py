r"""Minus the log posterior of a trajectory, as a function of white controls, and its Gaussians.

With the background :math:`x_0 \sim N(m, B)`, the model :math:`x_{k+1} = \mathcal M(x_k) +
\varepsilon_k` with the transition density p, and the observations :math:`y_j = h_j(x) + N(0,
R_j)` of all instruments, absent values dropped, it is up to a constant

.. math:: J(x_0 \dots x_L) = \tfrac12 \lVert x_0 - m \rVert^2_{B^{-1}}
    - \sum_k \log \frac{p(x_{k+1} \mid x_k)}{\max p}
    + \tfrac12 \sum_j \lVert y_j - h_j(x) \rVert^2_{R_j^{-1}} .

Observations of another law add :math:`-\log p(y_j \mid h_j(x))`.
Without model error the later states follow from the first, which alone is then controlled.

Controls v are white. With the standard deviations S of the background, the eigenvectors e of
the correlations :math:`S^{-1} B S^{-1}` and their eigenvalues b, and q the standard deviation of
the model error of each component,

.. math:: x_0 = m + S \sum_i v_i \, (1 / b_i + 1 / \bar q^2)^{-1/2} e_i, \quad
    x_k = x_k^s + q \, v_k, \quad \bar q^2 = \text{mean of } (q / S)^2

about a start :math:`x^s`, so that no unit of a component counts: the scale of :math:`x_0` is the
one that B and the first transition leave it together, and B is never inverted, so it may be of
low rank.

Source: Trémolet (2006), Q. J. R. Meteorol. Soc. 132, 2483-2504: the four-dimensional state as
control. Strong constraint: Le Dimet & Talagrand (1986), Tellus 38A, 97-110.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from scorda.core import rng
from scorda.core.gaussian import standard_deviations
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem

__all__ = ["Background", "TrajectoryCost", "gaussian_near"]

# Draws from which the scale of the model error is estimated: 3% are enough for a scale.
PROBES = 512


@dataclass(frozen=True, eq=False)
class Background:
    r"""N(m, B) by the eigenvectors of its correlations with positive eigenvalues.

    Arguments:
        mean: m, shape ``(*state)``.
        std: Roots of the eigenvalues.
        modes: Eigenvectors.
        unit: Standard deviation of each component; 1 where it has none.
    """

    mean: Float[Tensor, "..."]
    std: Float[Tensor, "rank"]
    modes: Float[Tensor, "rank state"]
    unit: Float[Tensor, "state"]

    @classmethod
    def of(cls, mean: Tensor, cov: Tensor) -> Background:
        unit = standard_deviations(cov)
        values, vectors = torch.linalg.eigh(cov / unit[:, None] / unit)
        return cls.kept(mean, values.clamp_min(0).sqrt(), vectors.mT, unit)

    @classmethod
    def kept(cls, mean: Tensor, std: Tensor, modes: Tensor, unit: Tensor) -> Background:
        """Without what is zero up to rounding, which for a variance is of order eps."""
        some = std > math.sqrt(max(modes.shape) * torch.finfo(std.dtype).eps) * std.max()
        return cls(mean, std[some], modes[some], unit)

    def state(self, coefficients: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows ..."]:
        """Return states of given coefficients of the modes."""
        x = coefficients @ self.modes * self.unit
        return self.mean + x.view(-1, *self.mean.shape)

    def coefficients(self, x: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows rank"]:
        """Return the coefficients of the modes of states."""
        return ((x - self.mean).flatten(1) / self.unit) @ self.modes.mT


class TrajectoryCost:
    r"""The cost of each member, ``cost(controls, rows)`` for the members with the numbers `rows`.

    It is that of the window that `begin` sets, which ends at or before the last step of the
    problem. Members may have perturbations: m, the model errors and the observations of each are
    then moved by draws of N(0, B), N(0, Q) and N(0, R), the same in every window.

    Arguments:
        problem: The problem.
        background: N(m, B).
        members: Number of members.
        generator: Source of the perturbations.
        perturbed: Whether there are any.

    Raises:
        ValueError: If the model error has no density.
    """

    def __init__(
        self,
        problem: Problem,
        background: Background,
        members: int,
        generator: torch.Generator | None = None,
        perturbed: bool = False,
    ) -> None:
        self.background, self.system = background, problem.system
        self.instruments = tuple(map(_present, problem.instruments))
        self.observed = sorted({step for part in self.instruments for step in _last(part)})
        system, steps, mean = problem.system, problem.steps, background.mean
        ours, theirs, observed = rng.spawn(generator, 3)
        self.perturbed, self.key, self.evaluations = perturbed, rng.key(observed), 0
        # Drawn as states, so that eigenvectors of one eigenvalue may be any of their span.
        self.white = rng.normal(members, (mean.numel(),), ours, like=mean) @ background.modes.mT
        self.white = self.white * self.perturbed
        self.weak, self.inner = bool(system.stochastic) and steps > 0, background.std
        if self.weak:
            probes = _errors(system, mean, PROBES, 1, rng.seeded(0))
            self.scale = probes.square().mean((0, 1)).sqrt()
            self.errors = self.perturbed * _errors(system, mean, members, steps, theirs)
            self.highest = _peak(system, mean)
            error = (self.scale.flatten() / background.unit).square().mean()
            self.inner = (background.std**-2 + 1 / error).rsqrt()

    def extended(
        self, states: Float[Tensor, "members time ..."] | None, steps: int
    ) -> Float[Tensor, "members window ..."]:
        """Trajectories continued with the perturbed model, at first from the perturbed background.

        Where nothing is observed the continuation adds nothing to the cost.
        """
        if states is None:
            states = self.background.state(self.white * self.background.std)[:, None]
        parts = list(states.unbind(1))
        with torch.no_grad():
            for k in range(len(parts) - 1, steps):
                moved = self.system.advance(parts[-1])
                parts.append(moved + self.errors[:, k] if self.weak else moved)
        return torch.stack(parts, 1)

    def begin(self, states: Float[Tensor, "members window ..."]) -> Float[Tensor, "members size"]:
        """Set the window and return the white controls of its first trajectories."""
        self.reference, steps = states, states.shape[1] - 1
        self.terms = [
            _Misfit(part, len(states), self.perturbed, (self.key[0], number), states)
            for number, whole in enumerate(self.instruments)
            if len(part := _rows(whole, [k for k, s in enumerate(_last(whole)) if s <= steps]))
        ]
        first = self.background.coefficients(states[:, 0]) / self.inner
        later = states[:, 1:].flatten(1) if self.weak else first[:, :0]
        return torch.cat((first, torch.zeros_like(later)), 1)

    def trajectory(
        self, controls: Float[Tensor, "rows size"], rows: Tensor
    ) -> Float[Tensor, "rows window ..."]:
        """States of the controls."""
        rank = len(self.inner)
        x = self.background.state(controls[:, :rank] * self.inner)
        if self.weak:
            later = self.reference[rows, 1:]
            later = later + self.scale * controls[:, rank:].view(later.shape)
            if (fixed := getattr(self.system, "unchanging", None)) is not None:
                later = torch.where(fixed.view(x.shape[1:]).to(x.device), x[:, None], later)
            return torch.cat((x[:, None], later), 1)
        states = [x]
        for _ in range(self.reference.shape[1] - 1):
            states.append(self.system.advance(states[-1]))
        return torch.stack(states, 1)

    def __call__(self, controls: Tensor, rows: Tensor) -> Float[Tensor, "rows"]:
        """J of each row; counts the trajectories in `evaluations`."""
        self.evaluations += len(rows)
        states = self.trajectory(controls, rows)
        white = controls[:, : len(self.inner)] * (self.inner / self.background.std)
        # Sums in double precision: close to the minimum the cost hardly changes.
        total = 0.5 * (white - self.white[rows]).double().square().sum(1)
        if self.weak and states.shape[1] > 1:
            errors = self.errors[rows, : states.shape[1] - 1]
            log_density = self.system.log_transition(states[:, :-1], states[:, 1:] - errors)
            total = total + (self.highest - log_density).sum(1)
        for term in self.terms:
            total = total + term(states, rows)
        return total

    def nearer(
        self, states: Float[Tensor, "members time ..."]
    ) -> Float[Tensor, "members time ..."]:
        """Return those of lower cost among given trajectories and those of the background."""
        rows = torch.arange(len(states), device=states.device)
        candidates = (states, self.extended(None, states.shape[1] - 1))
        with torch.no_grad():
            costs = [self(self.begin(c), rows).nan_to_num(torch.inf) for c in candidates]
        first = (costs[0] <= costs[1]).view(-1, *(1,) * (states.ndim - 1))
        return torch.where(first, *candidates)

    def check_gradient(self, states: Float[Tensor, "members time ..."]) -> None:
        """Check that system and operators, which say that they have a gradient, keep it."""
        states = states[:1].clone().requires_grad_()
        outcomes = {
            type(part.model.operator).__name__: part.predict(states)
            for part in self.instruments
            if len(part)
        }
        if states.shape[1] > 1:
            outcomes[f"the system {self.system.name}"] = self.system.advance(states[:, 0])
        for name, outcome in outcomes.items():
            if not outcome.requires_grad:
                raise ValueError(
                    f"FourDVar needs a gradient, and {name} returns values without one: write "
                    "it with torch operations that autograd can follow."
                )


class _Misfit:
    """Half the squared white misfit of one instrument, less the white perturbation of each member.

    Arguments:
        part: The instrument, each row with a value.
        members: Number of members.
        perturbed: Whether they have perturbations.
        key: Key of the perturbations; each row has a stream of its own, so that further rows
            (also absent ones) leave it alone.
        like: Tensor whose dtype and device are used.
    """

    def __init__(
        self, part: Observations, members: int, perturbed: bool, key: rng.Key, like: Tensor
    ) -> None:
        self.part, y = part, part.values.reshape(len(part), -1).to(like)
        self.present, self.y = ~y.isnan(), y.nan_to_num()
        self.law = part.model.law is not None
        self.correlated = part.std is None and part.model.cov is not None
        self.noise: Tensor | None = None
        if perturbed:
            shape = (y.shape[1],)
            rows = [rng.normal(members, shape, rng.at(key, k), like=like) for k in _last(part)]
            self.noise = torch.stack(rows, 1)
        if self.correlated or self.law:
            self.models = [part.at(k)[1] for k in range(len(part))]
        elif part.std is None:
            self.std = part.model.error_std(tuple(part.values.shape[1:]), y).expand_as(y)
        else:
            std = torch.as_tensor(part.std).to(like).expand(part.values.shape)
            self.std = std.reshape(y.shape).masked_fill(~self.present, 1)

    def __call__(self, states: Tensor, rows: Tensor) -> Float[Tensor, "rows"]:
        predicted = self.part.predict(states).reshape(len(states), *self.y.shape)
        if self.law:
            return self._of_law(predicted)
        misfit = predicted - self.y
        if not self.correlated:
            white = misfit / self.std
            if self.noise is not None:
                white = white - self.noise[rows]
            return 0.5 * white.double().square().masked_fill(~self.present, 0).sum((1, 2))
        total = misfit.new_zeros(len(states), dtype=torch.float64)
        for k, (model, present) in enumerate(zip(self.models, self.present, strict=True)):
            white = model.whiten(misfit[:, k, present])
            if self.noise is not None:
                white = white - self.noise[rows, k][:, present]
            total = total + 0.5 * white.double().square().sum(1)
        return total

    def _of_law(self, predicted: Tensor) -> Float[Tensor, "rows"]:
        """Return minus the log density; a sample is one of a Gaussian (`gaussian_near`)."""
        total = predicted.new_zeros(len(predicted), dtype=torch.float64)
        for k, (model, present) in enumerate(zip(self.models, self.present, strict=True)):
            total = total - model.compare(self.y[k, present], predicted[:, k, present])[0]
        return total


def gaussian_near(part: Observations, trajectory: Float[Tensor, "1 time ..."]) -> Observations:
    """Return the Gaussian observations that stand for those of another law near a trajectory."""
    if part.model.law is None:
        return part
    predicted = part.predict(trajectory).reshape(part.flat.shape)
    values, std = torch.full_like(predicted, math.nan), torch.ones_like(predicted)
    for k in range(len(part)):
        y, model = part.at(k)
        present = ~part.flat[k].isnan()
        h, scale = predicted[k, present], model.scale(tuple(y.shape), predicted)
        residual, var = model.law.linearised(y.to(h), h, scale, 0.0, scale.square())
        values[k, present], std[k, present] = (h + residual).to(h), var.sqrt().to(h)
    shape = part.values.shape
    model = ObservationModel(part.model.operator, std=1.0)
    return Observations(model, part.steps, values.view(shape), std.view(shape))


def _errors(
    system: Any, x: Tensor, members: int, steps: int, generator: torch.Generator | None
) -> Float[Tensor, "members steps ..."]:
    """Draws of the additive model error: what a step adds to the model."""
    states = x.expand(members, steps, *x.shape)
    with torch.no_grad():
        return system.step(states, generator) - system.advance(states)


def _peak(system: Any, x: Tensor) -> Tensor:
    """Largest log density of a step, where there is no error."""
    try:
        with torch.no_grad():
            return system.log_transition(x, system.advance(x[None])[0])
    except TypeError as error:
        raise ValueError(
            f"FourDVar needs model error with a density, or none at all: that of {system.name} "
            "is singular. Give each component some, or use the KalmanSmoother."
        ) from error


def _last(part: Observations) -> list[int]:
    """Last step of each row."""
    return [step[-1] if isinstance(step, tuple) else step for step in part.steps]


def _present(part: Observations) -> Observations:
    """An instrument without the rows of which no value is present."""
    return _rows(part, [k for k in range(len(part)) if part.observed(k)])


def _rows(part: Observations, rows: list[int]) -> Observations:
    """An instrument with some of its rows."""
    if len(rows) == len(part):
        return part
    std = part.std
    if isinstance(std, Tensor) and std.ndim == part.values.ndim and len(std) == len(part):
        std = std[rows]
    steps = tuple(part.steps[k] for k in rows)
    return replace(part, steps=steps, values=part.values[rows], std=std)
