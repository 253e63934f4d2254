"""Filters are compared with the exact Kalman posterior of a small linear-Gaussian system."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from scorda.bench.entry import Entry
from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.bridge import BridgeODE, BridgeSDE
from scorda.methods.closed_form import ClosedFormFilter
from scorda.methods.enff import EnFF
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.ensf import EnSF
from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter
from scorda.methods.kalman import KalmanFilter, KalmanMoments
from scorda.methods.masf.bridge import MASF
from scorda.methods.masf.nonlinear import NonlinearMASF
from scorda.methods.masf.published import PublishedMASF, PublishedSDE
from scorda.methods.particle import ParticleFilter
from scorda.methods.score_filter import ScoreFilter
from scorda.methods.sf import SF
from scorda.methods.ssls import SSLS
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import Problem, twin_experiment
from scorda.priors.gaussian import Gaussian
from scorda.priors.kernel import Kernel
from scorda.priors.mixture import Mixture
from scorda.systems.linear import LinearGaussian

__all__ = ["linear_gaussian"]

OBSERVED = (0, 2)
DIM = 4


@dataclass(frozen=True)
class Exactness:
    r"""Mean and variance of a filter are compared with those of the exact posterior.

    The first analysis starts from members of the exact law of the forecast, so that its errors are
    the method's own. "cycled" averages over the later half of the cycles, where errors of one
    analysis have passed through the next.

    Arguments:
        entries: Methods.
        system: The linear-Gaussian system.
        model: Observation model, linear.
        cycles: Observed steps, each after one step of the system.
        seeds: Number of independent truths, observations and ensembles.
        source: Where the set-up is from.
        shown: Scores that the command prints.
    """

    entries: tuple[Entry, ...]
    system: LinearGaussian
    model: ObservationModel
    cycles: int = 6
    seeds: int = 20
    statistic: str = "mean"
    source: str = "ours; reference: the Kalman filter"
    shown: tuple[str, ...] = (
        "bias/observed",
        "bias/unobserved",
        "variance/observed",
        "variance/unobserved",
        "cycled variance/observed",
        "cycled variance/unobserved",
    )

    def prepare(self, seed: int) -> tuple[Problem, KalmanMoments]:
        """Return the problem of one seed and the exact moments of its filter."""
        _, problem = twin_experiment(self.system, self.model, self.cycles, 1, rng.seeded(seed))
        return problem, KalmanFilter().moments(problem)

    def score(
        self, entry: Entry, prepared: tuple[Problem, KalmanMoments], seed: int
    ) -> dict[str, float]:
        r"""Return the scores of one run, mean over the observed components and over the others.

        bias: error of the mean in exact standard deviations, positive where the mean has moved
        too far in the direction in which the exact analysis moves it; error: root mean square of
        it, sampling error included; variance: ratio of the variances. "cycled ...": the same over
        the later half of the cycles.
        """
        problem, exact = prepared
        analysis = entry.method.assimilate(problem, entry.members, rng.at((seed, 1), 0))
        x = analysis.states.double()
        equal = x.new_full((1, 1), 1 / len(x))
        w = equal if analysis.weights is None else analysis.weights.double()
        w = w.expand(x.shape[:2])[..., None]
        mean = (w * x).sum(0)
        var = (w * (x - mean).square()).sum(0) / (1 - w.square().sum(0))
        exact_var = exact.covs.diagonal(dim1=1, dim2=2)
        forecast = exact.means[:-1] @ self.system.transition.double().mT
        moved = torch.cat([torch.zeros_like(forecast[:1]), exact.means[1:] - forecast]).sign()
        error = (mean - exact.means) / exact_var.sqrt()
        later = slice(self.cycles // 2 + 1, None)
        scores: dict[str, float] = {}
        for prefix, steps in (("", slice(1, 2)), ("cycled ", later)):
            for group, components in _groups().items():
                chosen = error[steps][:, components]
                signs = moved[steps][:, components]
                ratio = (var / exact_var)[steps][:, components]
                scores[f"{prefix}bias/{group}"] = float((chosen * signs).mean())
                scores[f"{prefix}error/{group}"] = float(chosen.square().mean().sqrt())
                scores[f"{prefix}variance/{group}"] = float(ratio.mean())
        return scores

    def shortened(self) -> Exactness:
        """Return the benchmark with few members, cycles and seeds, to test that it runs."""
        entries = tuple(replace(entry, members=50) for entry in self.entries)
        return replace(self, entries=entries, cycles=2, seeds=2)


def linear_gaussian() -> Exactness:
    """Four variables, two of them observed with std 0.5; forecasts correlated 0.5 to 0.6.

    Nothing is tuned: settings are the defaults, and the strength of EnFF is the variance of the
    error. There are 500 members, so that the bias of the
    method is larger than the sampling error of the ensemble. For the same reason SF and SSLS have
    the Gaussian of the ensemble as their prior in place of a network. An LETKF of infinite
    radius is the ETKF; with a finite one it needs coordinates, which this system has none of.
    """
    plain = PublishedSDE(prior_scale=(1, 1, 1), guidance_scale=(1, 1, 1))
    methods = {
        "exact draws": KalmanFilter(),
        "EnKF": EnKF(),
        "ETKF": ETKF(),
        "particle filter": ParticleFilter(resample=1.0),
        "closed form": ClosedFormFilter(),
        "closed form, bandwidth 0.1": ClosedFormFilter(0.1),
        "closed form, simulated observations, sigma_y 0.5": ClosedFormFilter(
            0.1, observation_bandwidth=0.5
        ),
        "mixture": GaussianMixtureFilter(),
        "mixture, bandwidth 0.1": GaussianMixtureFilter(0.1),
        "EnSF, paired": EnSF(scale="none"),
        "EnSF, mixture": EnSF(form="mixture", scale="none"),
        "EnFF, from past to forecast": EnFF(strength=0.25, scale="none"),
        "EnFF, from noise": EnFF("ot", strength=0.25, scale="none"),
        "EnFF, exact guidance": EnFF("ot", "exact"),
        "MASF bridge": MASF(),
        "MASF bridge, uncoupled": MASF(sampler=BridgeODE(coupled=False)),
        "MASF bridge, SDE": MASF(sampler=BridgeSDE()),
        "MASF bridge, kernel prior 0.2": MASF(Kernel(0.2, "none")),
        "MASF bridge, mixture prior 0.3": MASF(Mixture(0.3)),
        "MASF published, plain sum": PublishedMASF(sampler=plain),
        "MASF published, its scales": PublishedMASF(),
        "MASF nonlinear": NonlinearMASF(),
        "ScoreFilter, MMPS": ScoreFilter(),
        "SF, Gaussian prior": SF(Gaussian()),
        "SSLS, Gaussian prior": SSLS(Gaussian()),
    }
    entries = tuple(Entry(label, method, 500) for label, method in methods.items())
    return Exactness(entries, _system(), ObservationModel(Select(OBSERVED), std=0.5))


def _groups() -> dict[str, list[int]]:
    rest = [i for i in range(DIM) if i not in OBSERVED]
    return {"observed": list(OBSERVED), "unobserved": rest}


def _system() -> LinearGaussian:
    """Return a damped rotation in two planes whose noise correlates all variables."""
    c, s = 0.9 * torch.cos(torch.tensor(0.5)), 0.9 * torch.sin(torch.tensor(0.5))
    plane = torch.stack((torch.stack((c, -s)), torch.stack((s, c))))
    transition = torch.block_diag(plane, plane)
    places = torch.arange(DIM)
    cov: Float[Tensor, "state state"] = 0.7 ** (places[:, None] - places).abs().to(transition)
    return LinearGaussian(transition, 0.19 * cov, torch.zeros(DIM), cov)
