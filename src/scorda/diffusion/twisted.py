r"""Guided sampling that is corrected by weights: sequential Monte Carlo over the noise levels.

The unguided chain of the levels defines a prior; with :math:`u_t \mid u_s \sim N(m, \tau^2 I)`
and D the denoised :math:`u_s`,

.. math:: m = D + r (u_s - D), \quad r = \frac{\nu_t^2}{\nu_s^2}, \quad
    \tau = \nu_t \left(\frac{\nu_s}{\nu_t}\right)^{\mathrm{upper}} \sqrt{1 - r},
    \qquad x_0 \mid u \sim N(D, \nu^2 I) \text{ from the last level.}

Samples are drawn from the guided chain, whose mean is moved by :math:`\Delta = (1 - r) \nu_s^2 g`
(at the end :math:`\nu^2 g`) with the gradient g of a twist psi, and carry the weights

.. math:: \log w \leftarrow \log w + \log \psi_t(u_t) - \log \psi_s(u_s)
    - \frac{|\Delta|^2}{2 \tau^2} - \frac{\varepsilon \cdot \Delta}{\tau}.

The twists cancel: with :math:`\psi_0(x_0) = p(y \mid x_0)` the weighted samples are of the
posterior of that prior, and the product of the mean weights is an unbiased estimate of p(y),
whatever the twist and however its displacement is bounded.

Sources: Wu et al. (2023), Practical and asymptotically exact conditional sampling in diffusion
models, arXiv:2306.17775; the variance of the step as in `Ancestral`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scorda.core import rng
from scorda.core.resampling import resample
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.batches import at_once
from scorda.diffusion.denoisers import Denoiser, align
from scorda.diffusion.guidance import GuidedDenoiser
from scorda.diffusion.samplers import Ancestral, Noise, ScalarProcess
from scorda.diffusion.twists import Twist, products_of, twist

__all__ = ["TRUSTED", "Twisted", "spread_of_evidence", "untrusted"]

# Last levels at which nothing is resampled: what is alike there stays alike.
FREE = 3

# Weights are worth their name up to this standard deviation of the log evidence over groups.
TRUSTED = 1.0


@dataclass(frozen=True)
class Twisted:
    r"""Guided sampling corrected by weights, exact as the members of a group grow.

    Exact for the prior that the denoiser and the levels define, whatever the guidance; what is
    left is the error of the denoiser, that of the levels, and that of a finite group. The members
    that it takes grow exponentially with the observed directions that the guidance does not
    foresee. They are drawn from the weights at the end. The guidance is `StandardLikelihood`,
    `InflatedLikelihood`, or `MMPS` with its whole covariance, whatever its iterations.

    Arguments:
        noise_levels: Number of noise levels, at least 4; each takes one evaluation.
        group: Members that are weighted together; groups are independent.
        resample: A group is resampled where its effective sample size is below this share of it;
            0 never, 1 at each level.
        upper: Variance of a step between its bounds, as in `Ancestral`; 0.5 leaves the least
            error of the levels.
        min_noise: Smallest noise level, in units of the data.
        max_noise: Largest one.
    """

    noise_levels: int = 128
    group: int = 128
    resample: float = 0.5
    upper: float = 0.5
    min_noise: float = 8e-3
    max_noise: float = 20.0

    def __post_init__(self) -> None:
        if self.noise_levels <= FREE or self.group < 2 or not 0 <= self.resample <= 1:
            raise ValueError(
                f"Got noise_levels = {self.noise_levels}, group = {self.group}, resample = "
                f"{self.resample}: need at least {FREE + 1} levels, 2 members of a group and a "
                "share between 0 and 1."
            )
        # Checks the rest.
        self._chain()

    def _chain(self) -> Ancestral:
        """The unguided chain, which has the levels and the steps."""
        return Ancestral(
            self.noise_levels,
            0,
            min_noise=self.min_noise,
            max_noise=self.max_noise,
            upper=self.upper,
        )

    def draw(
        self,
        denoiser: Denoiser,
        process: ScalarProcess,
        shape: tuple[int, ...],
        first: int,
        last: int,
        generator: rng.Seed = None,
        like: Tensor | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Draw members ``first`` to ``last - 1``, and report of the groups that hold them.

        Member i is a function of the generator and i alone: its whole group is computed.

        Arguments:
            denoiser: Denoiser of a posterior (`Guidance.bind`), or of a prior.
            process: Forward process, whose noise levels are walked down.
            shape: Shape of one sample.
            first: First member.
            last: The one after the last.
            generator: Source of randomness, advanced by one key.
            like: Tensor whose dtype and device the samples take.
            report: Called with (evaluations done, evaluations in all).

        Returns:
            Samples, and a report. It has one entry per group of ``log_evidence``;
            ``lowest_ess``, the smallest effective sample size as a share of the group,
            ``final_ess`` at the end;
            ``resampled``, how often; ``roots``, of how many starts the members descend; and
            ``ess``, the share at each level, of one group after the other. ``evaluations`` is
            one number, of the denoiser and products with its Jacobian, but for the first of each.
        """
        key, size = rng.key(generator), self.group
        groups = range(first // size, -(-last // size))
        samples, reports = [], []
        total, done = len(groups) * self.noise_levels, 0

        def tell() -> None:
            nonlocal done
            done += 1
            if report is not None:
                report(done, total)

        for g in groups:
            noise = rng.Stream(key, g * size, (g + 1) * size, shape, like)
            walk = _Walk(self, denoiser, process, noise, rng.at(key, g), tell)
            drawn, told = walk.run()
            samples.append(drawn[max(first - g * size, 0) : last - g * size])
            reports.append(told)
        columns = {name: torch.cat([told[name] for told in reports]) for name in reports[0]}
        evaluations = self.noise_levels * products_of(denoiser)
        return torch.cat(samples), {"evaluations": evaluations, **columns}


@dataclass
class _Walk:
    """One group on its way down the noise levels."""

    settings: Twisted
    denoiser: Denoiser
    process: ScalarProcess
    noise: Noise
    choice: torch.Generator
    tell: Callable[[], None]

    def run(self) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Tensor]]:
        """Return the samples, drawn from their weights, and the report."""
        settings, numbers = self.settings, self.noise()
        nu = self.process.noise_level(settings._chain().times(self.process)).tolist()
        u = numbers * math.sqrt(1 + nu[0] ** 2)
        here = self._twist(u, nu[0])
        log_w, log_z = here.log, 0.0
        roots, ess, resampled = torch.arange(len(u), device=u.device), [], 0
        for i in range(len(nu)):
            ess.append(_share(log_w))
            if i < len(nu) - FREE and ess[-1] < settings.resample:
                pick = self._pick(log_w)
                log_z += float(log_w.logsumexp(0)) - math.log(len(u))
                u, roots, resampled = u[pick], roots[pick], resampled + 1
                here = Twist(here.mean[pick], here.shift[pick], here.log[pick])
                log_w = torch.zeros_like(log_w)
            u, there, cost = self._step(u, here, nu[i : i + 2])
            log_w = log_w + there.log - here.log - cost
            here = there
        ess.append(_share(log_w))
        log_z += float(log_w.logsumexp(0)) - math.log(len(u))
        # In an order of no meaning, so that a part of the group is as good a sample as all of it.
        order = rng.uniform(len(u), (), self.choice, like=log_w).argsort()
        pick = self._pick(log_w)[order]
        told = {
            "log_evidence": [log_z],
            "lowest_ess": [min(ess)],
            "final_ess": [ess[-1]],
            "resampled": [float(resampled)],
            "roots": [float(len(roots[pick].unique()))],
            "ess": ess,
        }
        return u[pick], {name: torch.tensor(value).double() for name, value in told.items()}

    def _step(self, u: Tensor, here: Twist, levels: list[float]) -> tuple[Tensor, Twist, Tensor]:
        """Return samples of the next level, their twist, and log q - log p of the step."""
        nu, end = levels[0], len(levels) == 1
        if end:
            centre, gain, std = here.mean, 1.0, nu
        else:
            ratio = (levels[1] / nu) ** 2
            centre, gain = here.mean + ratio * (u - here.mean), 1 - ratio
            std = levels[1] * (nu / levels[1]) ** self.settings.upper * math.sqrt(1 - ratio)
        eps, moved = self.noise(), gain * here.shift
        u = centre + moved + std * eps
        white = (moved / std).flatten(1).double()
        cost = 0.5 * white.square().sum(1) + (white * eps.flatten(1)).sum(1)
        return u, self._likelihood(u, here) if end else self._twist(u, levels[1]), cost

    def _likelihood(self, u: Tensor, like: Twist) -> Twist:
        """The likelihood itself, which the last twist is."""
        guided = self.denoiser
        if not isinstance(guided, GuidedDenoiser):
            return like
        return Twist(u, torch.zeros_like(u), guided.model.log_likelihood(guided.y.to(u), u))

    def _twist(self, u: Tensor, nu: float) -> Twist:
        self.tell()
        # Always the same batches, whose bits then are too.
        parts = [self._part(piece, nu) for piece in u.split(at_once(tuple(u.shape[1:])))]
        return Twist(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _part(self, u: Tensor, nu: float) -> tuple[Tensor, Tensor, Tensor]:
        level = align(torch.tensor(nu).to(u), u)
        if isinstance(self.denoiser, GuidedDenoiser):
            found, limit = (
                twist(self.denoiser, u, level),
                getattr(self.denoiser.denoiser, "limit", None),
            )
            shift = found.shift
            if limit is not None:
                # As in `GuidedDenoiser`; the weights know of it.
                shift = (found.mean + shift).clamp(-limit, limit) - found.mean
            return found.mean, shift, found.log
        mean = self.denoiser.denoise(u, level)
        return mean, torch.zeros_like(mean), torch.zeros(len(u)).to(u).double()

    def _pick(self, log_w: Tensor) -> Tensor:
        return resample(log_w.softmax(0), len(log_w), generator=self.choice)


def spread_of_evidence(log_evidence: Sequence[float]) -> tuple[float, float]:
    """Return the log of the mean evidence of groups, and the standard deviation of their logs.

    The latter is NaN of a single group, whose spread nobody knows.
    """
    groups = torch.tensor(log_evidence, dtype=torch.float64)
    spread = float(groups.std()) if len(groups) > 1 else math.nan
    return float(groups.logsumexp(0)) - math.log(len(groups)), spread


def untrusted(spread: float) -> str:
    """Say that weights must not be trusted, given the spread of the log evidence."""
    return (
        f"The log evidence of groups differs by {spread:.1f} (standard deviation), so that the "
        "weights must not be trusted: take larger groups, or a sampler without weights."
    )


def _share(log_w: Float[Tensor, "ensemble"]) -> float:
    """Effective sample size as a share of the samples."""
    weights = log_w.softmax(0)
    return float(1 / (weights.square().sum() * len(weights)))
