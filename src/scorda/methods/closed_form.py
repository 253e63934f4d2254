r"""The closed-form conditional diffusion filter: a kernel density, conditioned without training.

The forecast members :math:`x_i` and simulated observations of them make a kernel density of state
and observation. Conditioned on the observation y it is a mixture in closed form,

.. math:: p(x \mid y) = \sum_i w_i \, N(x; x_i, b^2 C), \qquad \sum_i w_i = 1,

so are its score and its denoiser under noise that grows with the diffusion time. In coordinates
where C is the identity, with :math:`s^2 = b^2 + \sigma^2(t)`, the level of kernel and noise,

.. math:: \nabla \log p_s(x \mid y) = \frac{D(x, s) - x}{s^2}, \quad
    D(x, s) = \sum_i \bar w_i x_i, \quad \bar w_i \propto w_i \exp \frac{-|x - x_i|^2}{2 s^2}

and the probability-flow equation is :math:`dx / d \log s = x - D(x, s)`, from noise at a large s
to the samples at s = b. Its linear part drops out in :math:`v = x / s`:

.. math:: \frac{d v}{d (1 / s)} = D(s v, s),

which any Runge-Kutta method solves exactly where D is constant, at both ends of the range of s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from scorda.assimilation.base import Cost
from scorda.assimilation.filter import PreparedFilter, Run
from scorda.assimilation.likelihood_score import settled
from scorda.core import rng
from scorda.core.errors import DegenerateEnsemble, DivergenceError
from scorda.core.gaussian import component_std
from scorda.core.resampling import resample
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace, variable_std
from scorda.diffusion.denoisers import KernelDenoiser
from scorda.observations.model import ObservationModel
from scorda.observations.problem import Problem

__all__ = ["ClosedFormFilter", "flow", "likelihood_bandwidth", "silverman_bandwidth"]

Bandwidth = Literal["silverman", "likelihood"]
Kernel = Literal["covariance", "variances", "isotropic"]
Draw = Literal["flow", "coupled", "mixture"]

# Level of the noise that the flow starts from, in standard deviations of the forecast.
HIGH = 20.0
# Level below which the flow is one step: members closer than this are not told apart.
LOW = 1e-3
# Bandwidths that the cross-validation tries, and members that it leaves out at most.
BANDWIDTHS = torch.logspace(-2, 0.5, 51, dtype=torch.float64)
HELD_OUT = 1000
# Pairs of members whose distances are held at once by the cross-validation.
BLOCK = 2**22

# Dormand & Prince (1980), J. Comput. Appl. Math. 6, 19-26: 5th order with an error of 4th.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
MOST_STEPS = 10_000

Denoise = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class ClosedFormFilter(PreparedFilter):
    r"""Samples of a kernel density of the forecast, conditioned on the observation.

    The weights :math:`w_i` need h as a black box alone. By default they are the exact likelihood,
    :math:`w_i \propto N(y; h(x_i), R)`: the limit b -> 0 is the particle filter. With an
    `observation_bandwidth` :math:`\sigma_y` they are the published ones, from one simulated
    observation per member and a kernel of the width of :math:`\sigma_y` standard deviations of the
    observation error,

    .. math:: y_i = h(x_i) + \varepsilon_i, \quad
        w_i \propto \exp \frac{-(y - y_i)^T R^{-1} (y - y_i)}{2 \sigma_y^2} ,

    for an effective error covariance :math:`(1 + \sigma_y^2) R`. The kernels of the state do not
    move with y, and add :math:`b^2 C` to the covariance of the analysis.

    draw = "flow" solves the probability-flow equation from noise, to a stated tolerance;
    "mixture" draws from the same law exactly: a member in proportion to the weights, plus kernel
    noise. "coupled" starts from the forecast: each member, moved by its own kernel noise, is
    carried to large noise by the flow of the unconditional density and back by that of the
    conditional one. In one dimension that is the increasing map of one onto the other.

    Consistent as the members grow and b -> 0; their number must grow exponentially with that of
    independent observations, as for the particle filter: there is no localization.

    Source: Binder & Oberai (2026), arXiv:2603.21291, equation 16 (score). Deviations: likelihood
    weights by default; kernels of the shape C of the forecast (`kernel`: the paper's are
    isotropic in the units of the state, here at most in those of each variable); the bandwidth by
    a rule where the paper searches a grid; the noise starts about the weighted mean, with the
    variance that the mixture has there; the draws other than "flow".

    Arguments:
        relative_bandwidth: b in standard deviations of the forecast (along C), or how it is found:
            "silverman" (see `silverman_bandwidth`) or "likelihood", which maximises the
            cross-validated likelihood of the forecast members (see `likelihood_bandwidth`).
        kernel: C: the "covariance" of the forecast, of its rank; its "variances" alone; or
            "isotropic", their mean over the grid for each variable.
        observation_bandwidth: :math:`\sigma_y`, bandwidth of the observation for simulated
            observations, or None for the exact likelihood.
        draw: "flow", "coupled" or "mixture".
        flow_tolerance: Root mean square error of one step of the flow, in local standard
            deviations.

    Raises:
        ValueError: If a setting is out of range.
        DegenerateEnsemble: If the forecast has no spread.
        DivergenceError: If the weight of every member is zero or not finite.

    Example:
        With `problem` as in `twin_experiment`:

        >>> analysis = sc.ClosedFormFilter().assimilate(problem, 20, generator=0)
        >>> analysis.states.shape
        torch.Size([20, 17, 3])
    """

    relative_bandwidth: float | Bandwidth = "silverman"
    kernel: Kernel = "covariance"
    observation_bandwidth: float | None = None
    draw: Draw = "flow"
    flow_tolerance: float = 1e-3

    errors = "density"
    in_double = False
    exact = "any problem, N → ∞, relative_bandwidth → 0"
    cost = Cost(1, None)

    def __post_init__(self) -> None:
        b, sigma_y = self.relative_bandwidth, self.observation_bandwidth
        named = b in ("silverman", "likelihood")
        if not named and (isinstance(b, str) or not 0 <= b < torch.inf):
            raise ValueError(
                f"Got relative_bandwidth = {b!r}: give 'silverman', 'likelihood' or a number of "
                "standard deviations, at least 0."
            )
        if self.kernel not in ("covariance", "variances", "isotropic"):
            raise ValueError(
                f"Got kernel = {self.kernel!r}: choose 'covariance', 'variances' or 'isotropic'."
            )
        if self.draw not in ("flow", "coupled", "mixture"):
            raise ValueError(f"Got draw = {self.draw!r}: choose 'flow', 'coupled' or 'mixture'.")
        if sigma_y is not None and not 0 < sigma_y < torch.inf:
            raise ValueError(
                f"Got observation_bandwidth = {sigma_y}: give a positive number of standard "
                "deviations of the observation error, or None for the exact likelihood."
            )
        if not 1e-6 <= self.flow_tolerance < 1:
            raise ValueError(
                f"Got flow_tolerance = {self.flow_tolerance}: give one from 1e-6 to 1."
            )
        if sigma_y is not None:
            object.__setattr__(self, "errors", "gaussian_errors")

    def begin(
        self, problem: Problem | None, weights: Float[Tensor, "ensemble"] | None = None
    ) -> Run:
        return _Conditioned(self, None if problem is None else problem.space)


@dataclass(frozen=True)
class _Conditioned(Run):
    """Analyses in one space, whose variables have spreads of their own."""

    settings: ClosedFormFilter
    space: StateSpace | None

    def analyse(
        self,
        forecast: Float[Tensor, "ensemble ..."],
        y: Float[Tensor, "obs"],
        model: ObservationModel,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "ensemble ..."], dict[str, Any]]:
        """Return the analysis, and ``ess``, ``bandwidth`` and ``evaluations`` of this cycle.

        ``ess``: effective sample size of the weights; ``evaluations``: those of the denoiser.
        """
        simulate, choice, noise = rng.spawn(generator, 3)
        log_weights = self._log_weights(forecast, y, model, simulate)
        weights = log_weights.exp()
        x, leave = _white(forecast, self.settings.kernel, self.space)
        b = self._bandwidth(x)
        eps = rng.normal(len(x), (x.shape[1],), noise, like=x)
        if self.settings.draw == "mixture":
            analysis, evaluations = x[resample(weights, len(x), generator=choice)] + b * eps, 0
        else:
            analysis, evaluations = self._flow(x, log_weights, b, eps)
        info = {"ess": 1 / weights.square().sum(), "bandwidth": b, "evaluations": evaluations}
        return settled(leave(analysis), forecast), info

    def _log_weights(
        self, forecast: Tensor, y: Tensor, model: ObservationModel, generator: torch.Generator
    ) -> Float[Tensor, "ensemble"]:
        """Normalised, in double precision."""
        if self.settings.observation_bandwidth is None:
            logs = model.log_likelihood(y, forecast)
        else:
            residual = model.whiten(y - model.sample(forecast, generator).flatten(1))
            logs = -0.5 * (residual / self.settings.observation_bandwidth).square().sum(1)
        logs = logs.double()
        total = logs.logsumexp(0)
        if not torch.isfinite(total):
            raise DivergenceError(
                "No member has a finite weight for the observation: check that the operator "
                "gives finite values for the forecast, or use a larger observation error."
            )
        return logs - total

    def _bandwidth(self, x: Float[Tensor, "ensemble rank"]) -> float:
        if self.settings.relative_bandwidth == "silverman":
            return silverman_bandwidth(*x.shape)
        if self.settings.relative_bandwidth == "likelihood":
            return likelihood_bandwidth(x)
        return float(self.settings.relative_bandwidth)

    def _flow(
        self, x: Tensor, log_weights: Tensor, b: float, eps: Tensor
    ) -> tuple[Float[Tensor, "ensemble rank"], int]:
        low, tolerance = max(b, LOW), self.settings.flow_tolerance
        equal = torch.full_like(log_weights, 1 / len(x)).log()
        mean, std = _moments(x, log_weights, HIGH)
        evaluations = 0
        if self.settings.draw == "flow":
            z = eps
        else:
            top, evaluations = flow(_denoiser(x, equal), x + low * eps, low, HIGH, tolerance)
            prior_mean, prior_std = _moments(x, equal, HIGH)
            z = (top - prior_mean) / prior_std
        denoise = _denoiser(x, log_weights)
        sample, more = flow(denoise, mean + std * z, HIGH, low, tolerance)
        if b < low:
            # Exact for kernels that do not overlap, where D is constant from here on.
            sample = (b / low) * sample + (1 - b / low) * denoise(sample, low)
            more += 1
        return sample, evaluations + more


def flow(
    denoise: Denoise, x: Float[Tensor, "ensemble size"], start: float, end: float, tolerance: float
) -> tuple[Float[Tensor, "ensemble size"], int]:
    r"""Solve :math:`dx / d \log s = x - D(x, s)` from one level s to another, up or down.

    Dormand-Prince steps for :math:`v = x / s` over :math:`\tau = 1 / s`, where
    :math:`dv / d\tau = D`. The size of the steps, common to all members, keeps the root mean
    square of the estimated error of x below `tolerance` times :math:`\sqrt{1 + s^2}`: the
    standard deviation that data of unit variance have at that level.

    Arguments:
        denoise: D.
        x: Samples at the first level.
        start: First level, positive.
        end: Last level, positive.
        tolerance: Largest error of a step.

    Returns:
        Samples at the last level, and the evaluations of D.

    Raises:
        DivergenceError: If the solution is no longer finite, or needs more than 10 000 steps.
    """
    tau, last = 1 / start, 1 / end
    direction = 1.0 if last > tau else -1.0
    v, h = x / start, 0.5 * min(tau, last)
    slope, evaluations = denoise(x, start), 1
    for _ in range(MOST_STEPS):
        h = min(h, abs(last - tau))
        if h <= 1e-12 * last:
            return v * end, evaluations
        slopes, final = [slope], v
        for node, stage in zip(NODES[1:], STAGES[1:], strict=True):
            level = 1 / (tau + direction * h * node)
            final = v + direction * h * _combined(stage, slopes)
            slopes.append(denoise(final * level, level))
        evaluations += len(STAGES) - 1
        error = float(h * _combined(ERROR, slopes).square().mean().sqrt() * level)
        error = error / (tolerance * (1 + level**2) ** 0.5)
        if not error < torch.inf:
            break
        if error <= 1:
            # The last stage is the first of the next step.
            tau, v, slope = tau + direction * h, final, slopes[-1]
        h = h * min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2))
    raise DivergenceError(
        f"The flow between the levels {start:g} and {end:g} failed at {1 / tau:g}: check that the "
        "forecast is finite, or raise the tolerance."
    )


def silverman_bandwidth(members: int, dimensions: int) -> float:
    r"""Silverman's rule, in standard deviations.

    .. math:: b = \left(\frac{4}{(d + 2) N}\right)^{1 / (d + 4)}

    The bandwidth of least mean integrated square error for a Gaussian density; too wide where
    there are several modes. Source: Silverman (1986), Density Estimation,
    section 4.3.2.
    """
    return (4 / ((dimensions + 2) * members)) ** (1 / (dimensions + 4))


def likelihood_bandwidth(x: Float[Tensor, "ensemble size"]) -> float:
    r"""Bandwidth that maximises the cross-validated likelihood of the members.

    .. math:: \sum_i \log \frac{1}{N - 1} \sum_{j \ne i} N(x_i; x_j, b^2 I)

    over 51 values from 0.01 to 3.2, equally spaced in log b. With more than 1000 members,
    1000 of them at equal distances in the ensemble are left out in turn. Needs no truth and no
    observation. Members that coincide make it 0.01.

    Source: Habbema, Hermans & van den Broek (1974), COMPSTAT, 101-110.
    """
    rows = torch.linspace(0, len(x) - 1, min(len(x), HELD_OUT)).round().long().unique()
    b = BANDWIDTHS.to(x.device)
    total = torch.zeros_like(b)
    for part in rows.to(x.device).split(max(1, BLOCK // len(x))):
        square = torch.cdist(x[part], x).square().double()
        square[torch.arange(len(part)), part] = torch.inf
        for k, scale in enumerate(b.tolist()):
            total[k] += (-0.5 * square / scale**2).logsumexp(1).sum()
    return float(b[(total - len(rows) * x.shape[1] * b.log()).argmax()])


def _combined(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return sum((w * k for w, k in zip(weights, slopes, strict=True) if w), torch.zeros(()))


def _denoiser(x: Tensor, log_weights: Tensor) -> Denoise:
    density = KernelDenoiser(x, 0.0, log_weights)
    return lambda u, level: density.denoise(u, torch.as_tensor(level).to(u))


def _moments(x: Tensor, log_weights: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per coordinate of the mixture at a level of the noise."""
    weights = log_weights.exp().to(x)
    mean = weights @ x
    return mean, (weights @ (x - mean).square() + level**2).sqrt()


def _white(
    forecast: Float[Tensor, "ensemble ..."], kernel: Kernel, space: StateSpace | None
) -> tuple[Float[Tensor, "ensemble rank"], Callable[[Tensor], Tensor]]:
    """Members in coordinates where the kernel's C is the identity, and the way back."""
    mean, members = forecast.mean(0), len(forecast)
    A = (forecast - mean).flatten(1)
    std = component_std(forecast).flatten()
    if not std.any():
        raise DegenerateEnsemble(
            "The forecast has no spread, so no kernel density can be made of it: add model error "
            "or start from an ensemble with spread."
        )
    if kernel == "isotropic":
        std = variable_std(forecast, space).flatten()
    # Components without spread stay as they are: noise in them is multiplied by zero again.
    x = A / torch.where(std > 0, std, 1.0)
    if kernel != "covariance":
        return x, lambda z: mean + (z * std).reshape(forecast.shape)
    U, root, basis = torch.linalg.svd(x, full_matrices=False)
    rank = int((root > max(A.shape) * torch.finfo(A.dtype).eps * root[0]).sum())
    back = root[:rank, None] * basis[:rank] * std / (members - 1) ** 0.5
    x = U[:, :rank] * (members - 1) ** 0.5
    return x, lambda z: mean + (z @ back).reshape(forecast.shape)
