r"""Scalar processes and their samplers: from noise to samples of the data, or of a posterior.

The scalar processes are :math:`x_t = \alpha(t) x_0 + \sigma(t) \varepsilon`. Divided by alpha they
all read :math:`u = x_t / \alpha = x_0 + \nu \varepsilon` with the noise level
:math:`\nu = \sigma / \alpha`. So one denoiser serves every one of them, each sampler is one line
that goes from a noise level to a smaller one, and the process only says which levels there are.
After the last level the denoised mean is returned. Tweedie's formula links the denoiser and the
score: :math:`\alpha E[x_0 \mid x_t] = x_t + \sigma^2 \nabla \log p_t(x_t)`.

Each sampler may add Langevin corrections at every level it reaches,

.. math:: u \leftarrow u + \delta s(u) + \sqrt{2 \delta}\, \varepsilon, \qquad
    s(u) = \frac{D(u) - u}{\nu^2}, \quad \delta = \tau \dim(u) / \|s(u)\|^2 \text{ per member},

whose stationary variance is too large by the factor :math:`1 + \tau / 2` for a white Gaussian of
many dimensions: it solves :math:`v = (1 - \tau / v)^2 v + 2 \tau / v`. In few dimensions the norm
of the score varies and the excess is larger.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.batches import batches
from scorda.diffusion.denoisers import Denoiser, align
from scorda.diffusion.process import ForwardProcess

__all__ = [
    "Ancestral",
    "Multistep",
    "PredictorCorrector",
    "Sampler",
    "ScalarProcess",
    "VarianceExploding",
    "extrapolated",
]

# Noise levels: the one before, this one, the next.
Levels = tuple[float, float, float]
Noise = Callable[[], Tensor]


class ScalarProcess(ForwardProcess):
    r""":math:`x_t = \alpha(t) x_0 + \sigma(t) \varepsilon` with positive scalars."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Amplitude of the data, shape of t."""

    @abstractmethod
    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Standard deviation of the noise, shape of t."""

    @abstractmethod
    def time(self, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Diffusion time at which the noise level is `noise`: the inverse of `noise_level`."""

    def noise_level(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Noise level :math:`\nu = \sigma / \alpha`, in units of the data [final]."""
        return self.sigma(t) / self.alpha(t)

    def denoise(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "ensemble ..."],
        t: Float[Tensor, "..."],
    ) -> Float[Tensor, "ensemble ..."]:
        """Mean of x_0 given x_t under the prior of a denoiser [final]."""
        return denoiser.denoise(x_t / align(self.alpha(t), x_t), align(self.noise_level(t), x_t))

    def scale(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The amplitude `alpha` [final]."""
        return self.alpha(t)

    def var(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Square of `sigma` [final]."""
        return self.sigma(t).square()


@dataclass(frozen=True)
class VarianceExploding(ScalarProcess):
    r"""Noise that grows geometrically: :math:`x_t = x_0 + \sigma(t) \varepsilon`.

    .. math:: \sigma(t) = \sigma_{min} (\sigma_{max} / \sigma_{min})^t

    Equal steps of t are equal steps of log sigma. Source: Song et al. (2021), appendix C.

    Arguments:
        min_noise: sigma(0), in units of the data; well below what the data resolve.
        max_noise: sigma(1), well above the extent of the data.
    """

    min_noise: float = 2e-3
    max_noise: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.min_noise < self.max_noise:
            raise ValueError(
                f"Got min_noise = {self.min_noise}, max_noise = {self.max_noise}: need "
                "0 < min_noise < max_noise."
            )

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(t)

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.min_noise * torch.exp(t * math.log(self.max_noise / self.min_noise))

    def time(self, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.log(noise / self.min_noise) / math.log(self.max_noise / self.min_noise)


# Of the ends of a process that are computed and written down.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Sampler(ABC):
    """A walk down the noise levels of a process.

    Arguments:
        noise_levels: Number of noise levels at which the denoiser is called, at least 2.
        corrections: Langevin corrections at each level but the first, if it is below
            `correct_below`.
        tau: Size of a correction, in (0, 2).
        grid: "time": levels uniform in t; "log": uniform in the log of the noise level, from
            `max_noise` to `min_noise`.
        min_noise: Smallest noise level of the "log" grid, in units of the data.
        max_noise: Largest one.
        correct_below: Noise level of the "log" grid above which nothing is corrected (default:
            none).
        correct_above: The one below which nothing is corrected (default: none).
    """

    noise_levels: int = 64
    corrections: int = 1
    tau: float = 0.5
    grid: str = "log"
    min_noise: float = 4e-3
    max_noise: float = 10.0
    correct_below: float | None = None
    correct_above: float | None = None

    # Whether `move` draws noise.
    noisy = False

    def __post_init__(self) -> None:
        if self.noise_levels < 2 or self.corrections < 0 or not 0 < self.tau < 2:
            raise ValueError(
                f"Got noise_levels = {self.noise_levels}, corrections = {self.corrections}, "
                f"tau = {self.tau}: need noise_levels >= 2, corrections >= 0 "
                "and tau between 0 and 2."
            )
        if self.grid not in ("time", "log") or not 0 < self.min_noise < self.max_noise:
            raise ValueError(
                f"Got grid = {self.grid!r}, min_noise = {self.min_noise}, "
                f"max_noise = {self.max_noise}: the grid is "
                '"time" or "log", and 0 < min_noise < max_noise.'
            )
        above, below = self.correct_above, self.correct_below
        if above is None and below is None:
            return
        low = self.min_noise if above is None else above
        high = math.inf if below is None else below
        if self.grid != "log" or not self.min_noise <= low < high:
            raise ValueError(
                f"Got correct_below = {below}, correct_above = {above}, grid = {self.grid!r}, "
                f"min_noise = {self.min_noise}: each is a noise level above the lowest one of the "
                '"log" grid, and the second is below the first.'
            )

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser per sample."""
        return self.noise_levels + self.corrections * sum(self._corrected)

    @property
    def deterministic(self) -> bool:
        """Whether a sample is a function of its start alone [final]."""
        return self.corrections == 0 and not self.noisy

    def times(self, process: ScalarProcess) -> Float[Tensor, "levels"]:
        """Diffusion times of the levels, from noise to data, in double precision.

        Raises:
            ValueError: If the "log" grid has noise levels that the process has not.
        """
        if self.grid == "time":
            return torch.linspace(process.end, 0, self.noise_levels, dtype=torch.float64)
        ends = torch.tensor([0.0, process.end], dtype=torch.float64)
        low, high = process.noise_level(ends).tolist()
        if self.min_noise < low * (1 - ROUNDING) or self.max_noise > high * (1 + ROUNDING):
            raise ValueError(
                f"Got {self} for {process}, whose noise levels are from {low:.3g} to {high:.3g}: "
                "give the sampler `min_noise` and `max_noise` between these."
            )
        return process.time(self.levels).clamp(0, process.end)

    @property
    def levels(self) -> Float[Tensor, "levels"]:
        """Noise levels of the "log" grid, from noise to data, in double precision."""
        ends = torch.tensor([self.max_noise, self.min_noise], dtype=torch.float64).log()
        return torch.linspace(ends[0], ends[1], self.noise_levels, dtype=torch.float64).exp()

    @property
    def _corrected(self) -> list[bool]:
        """Whether there are corrections at each level."""
        low = 0.0 if self.correct_above is None else self.correct_above
        high = math.inf if self.correct_below is None else self.correct_below
        return [False, *(low <= level < high for level in self.levels[1:].tolist())]

    @abstractmethod
    def move(
        self, u: Tensor, mean: Tensor, previous: Tensor | None, levels: Levels, noise: Noise
    ) -> Tensor:
        """Go to the next noise level.

        Arguments:
            u: x_t / alpha, ``(ensemble, *shape)``.
            mean: Denoised u.
            previous: Denoised value of the level before (None at the first).
            levels: Noise levels: the one before, this one, the next.
            noise: Draws standard normal noise of the shape of u.
        """

    def sample(
        self,
        denoiser: Denoiser,
        process: ScalarProcess,
        shape: tuple[int, ...],
        members: int,
        generator: rng.Seed = None,
        chunk: int | None = None,
        like: Tensor | None = None,
        report: Callable[[int, int], None] | None = None,
        first: int = 0,
        start: Float[Tensor, "ensemble ..."] | None = None,
    ) -> Float[Tensor, "ensemble ..."]:
        """Draw samples ``(members, *shape)`` [final].

        The noise of a member depends on the generator and the number of the member only, and it
        is computed in `batches`, so that the samples have the same bits for every `chunk`.

        Arguments:
            denoiser: Denoiser of the prior or of a posterior.
            process: Forward process, whose noise levels are walked down.
            shape: Shape of one sample.
            members: Number of samples.
            generator: Source of randomness, advanced by one key.
            chunk: Members computed at once, rounded up as by `batches`; bounds the memory.
                Default: just these, for a denoiser that is made for them.
            like: Tensor whose dtype and device the samples take.
            report: Called with (evaluations done, evaluations in all).
            first: Number of the first member, where these are part of a larger ensemble.
            start: Standard normal numbers to start from, ``(members, *shape)`` (default: drawn).
        """
        key, last = rng.key(generator), first + members
        parts = [(first, last)]
        if chunk is not None:
            parts = list(batches(shape, first, last, chunk))
        total, done = len(parts) * self.evaluations, 0
        samples = []
        for low, high in parts:
            stream = rng.Stream(key, low, high, shape, like)
            numbers = stream()
            if start is not None:
                numbers = start[torch.arange(low, high).clamp(first, last - 1) - first]
            # The last one is the sample.
            for x in self._walk(denoiser, process, numbers, stream):  # noqa: B007
                done += 1
                if report is not None:
                    report(done, total)
            samples.append(x[max(first - low, 0) : last - low])
        return torch.cat(samples)

    def encode(
        self, denoiser: Denoiser, process: ScalarProcess, x: Float[Tensor, "ensemble ..."]
    ) -> Float[Tensor, "ensemble ..."]:
        """The numbers from which `sample` comes back to x, to the order of the steps [final].

        They are standard normal where the x are samples of the denoiser's prior. The steps are
        those of `sample` in reverse, one evaluation each, ``noise_levels - 1`` in all.

        Raises:
            ValueError: If the sampler draws noise, so that no numbers belong to x.
        """
        if not self.deterministic:
            raise ValueError(f"Got {self}, which draws noise: only a deterministic one encodes.")
        nu = process.noise_level(self.times(process).to(x)).flip(0)
        levels, previous = nu.tolist(), None
        for i in range(len(nu) - 1):
            mean = denoiser.denoise(x, align(nu[i], x))
            around = (levels[max(i - 1, 0)], levels[i], levels[i + 1])
            x, previous = self.move(x, mean, previous, around, lambda: torch.zeros(())), mean
        return x / math.hypot(1, levels[-1])

    def _walk(
        self, denoiser: Denoiser, process: ScalarProcess, numbers: Tensor, noise: rng.Stream
    ) -> Iterator[Tensor]:
        """Yield after each evaluation of the denoiser; the last value is the sample."""
        nu = process.noise_level(self.times(process).to(numbers.dtype))
        levels, corrected, previous = nu.tolist(), self._corrected, None
        nu = nu.to(numbers.device)
        u = numbers * (1 + nu[0].square()).sqrt()
        for i in range(len(nu)):
            level = align(nu[i], u)
            for _ in range(self.corrections if corrected[i] else 0):
                u = self._correct(denoiser, u, level, noise())
                yield u
            mean = denoiser.denoise(u, level)
            if i == len(nu) - 1:
                yield mean
                return
            around = (levels[max(i - 1, 0)], levels[i], levels[i + 1])
            u, previous = self.move(u, mean, previous, around, noise), mean
            yield u

    def _correct(self, denoiser: Denoiser, u: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        score = (denoiser.denoise(u, level) - u) / level.square()
        delta = align(self.tau / score.flatten(1).square().mean(1), u)
        return u + delta * score + (2 * delta).sqrt() * noise


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    r"""The sampler of SDA: exponential integrator (DDIM) and Langevin corrections.

    .. math:: u' = D + \frac{\nu'}{\nu} (u - D)

    First order and deterministic without corrections. Source: Rozet & Louppe (2023), equations 16
    and 17, algorithm 4; the paper has 256 steps uniform in t (``grid="time"``) and tau = 0.25.
    """

    def move(
        self, u: Tensor, mean: Tensor, previous: Tensor | None, levels: Levels, noise: Noise
    ) -> Tensor:
        _, nu, nu_next = levels
        return mean + nu_next / nu * (u - mean)


@dataclass(frozen=True)
class Ancestral(Sampler):
    r"""Draws from the law of the next level given this one, its variance between two bounds.

    .. math:: u' = D + \frac{\nu'^2}{\nu^2} (u - D) +
        \nu' \left(\frac{\nu}{\nu'}\right)^{\mathrm{upper}}
        \sqrt{1 - \frac{\nu'^2}{\nu^2}}\, \varepsilon

    The mean is exact for every prior. The variance is exact at upper = 0 where x_0 is known (Ho
    et al. 2020, equation 7, for any scalar process) and at upper = 1 where x_t says nothing of it;
    for a Gaussian the samples' variance is too small with the one and too large with the other, in
    proportion to the step, and the leading errors cancel at upper = 0.5 (see tests).

    Arguments:
        upper: Which variance: 0 the lower bound, 1 the upper, 0.5 their geometric mean.
    """

    upper: float = 0.0

    noisy = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.upper <= 1:
            raise ValueError(f"Got upper = {self.upper}: it must be between 0 and 1.")

    def move(
        self, u: Tensor, mean: Tensor, previous: Tensor | None, levels: Levels, noise: Noise
    ) -> Tensor:
        _, nu, nu_next = levels
        ratio = (nu_next / nu) ** 2
        std = nu_next * (nu / nu_next) ** self.upper * math.sqrt(1 - ratio)
        return mean + ratio * (u - mean) + std * noise()


@dataclass(frozen=True)
class Multistep(Sampler):
    r"""Second-order exponential multistep solver of the probability-flow equation.

    .. math:: u' = \frac{\nu'}{\nu} u + \left(1 - \frac{\nu'}{\nu}\right)
        \left[ D + \frac{h}{2 h_-} (D - D_-) \right], \quad h = \log \frac{\nu}{\nu'}

    where :math:`D_-, h_-` belong to the step before. Deterministic without corrections and one
    evaluation per step: for few steps. Source: Lu et al. (2022), DPM-Solver++(2M), algorithm 2.
    With corrections the extrapolation uses slightly moved states.
    """

    def move(
        self, u: Tensor, mean: Tensor, previous: Tensor | None, levels: Levels, noise: Noise
    ) -> Tensor:
        _, nu, nu_next = levels
        mean = extrapolated(mean, previous, levels)
        return mean + nu_next / nu * (u - mean)


def extrapolated(mean: Tensor, previous: Tensor | None, levels: Levels) -> Tensor:
    """Return the denoised state in the middle of a step, in log noise, by that of the step before.

    It is the one of the begin of the step where there is none before.
    """
    nu_before, nu, nu_next = levels
    if previous is None:
        return mean
    weight = math.log(nu / nu_next) / math.log(nu_before / nu) / 2
    return mean + weight * (mean - previous)
