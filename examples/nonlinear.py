"""Compare methods in one analysis of a nonlinear observation with the exact posterior.

The state has two components, and the prior is Gaussian or has two modes. One value is observed,
through five operators, with an error of 0.05 and 0.5 standard deviations of h(x). There are 500
members; the posterior comes from a million draws of the prior by importance sampling. This file
prints the tables of docs/nonlinear.md.

    python examples/nonlinear.py [--quick] [--seeds 4] [--bandwidth 0.1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import scorda as sc
from scorda.core import rng
from scorda.metrics.distance import wasserstein

DRAWS, MEMBERS = 1_000_000, 500
ERRORS = (0.05, 0.5)
OPERATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": lambda x: (3 * x[:, :1]).sigmoid(),
    "tanh": lambda x: (2 * x[:, :1]).tanh(),
    "arctan": lambda x: (2 * x[:, :1]).atan(),
    "cubic": lambda x: x[:, :1] ** 3,
    "speed": lambda x: x.square().sum(1, keepdim=True).sqrt(),
}


def gaussian(members: int, generator: torch.Generator) -> torch.Tensor:
    """Draw from the Gaussian with mean (0.5, 0), variances 1 and correlation 0.7."""
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.7], [0.7, 1.0]]))
    return torch.tensor([0.5, 0.0]) + rng.normal(members, (2,), generator) @ root.T


def two_modes(members: int, generator: torch.Generator) -> torch.Tensor:
    """Draw from two equal modes at (0.9, 0.9) and at minus that, with std 0.4."""
    sign = 1 - 2 * (rng.uniform(members, (1,), generator) < 0.5).double()
    return 0.9 * sign + 0.4 * rng.normal(members, (2,), generator)


PRIORS = {"Gaussian": gaussian, "two modes": two_modes}


def methods(bandwidth: float) -> dict[str, sc.Filter]:
    """Return the methods that are compared; all kernels have the same bandwidth."""
    kernel = sc.priors.Kernel(bandwidth, "none")
    sampler = sc.diffusion.Ancestral(32, 0, min_noise=1e-3, max_noise=1e3, upper=0.5)
    drawn = {"guidance": sc.diffusion.MMPS(1), "sampler": sampler, "coupled": False}
    return {
        "MASF bridge, Gaussian": sc.MASF(),
        "MASF bridge, kernel": sc.MASF(kernel),
        "MASF nonlinear, Gaussian": sc.NonlinearMASF(),
        "MASF nonlinear, kernel": sc.NonlinearMASF(kernel),
        "MMPS, Gaussian": sc.ScoreFilter(guidance=sc.diffusion.MMPS(1)),
        "MMPS, kernel": sc.ScoreFilter(kernel, guidance=sc.diffusion.MMPS(1)),
        "MMPS drawn, Gaussian": sc.ScoreFilter(**drawn),
        "MMPS drawn, kernel": sc.ScoreFilter(kernel, **drawn),
        "EnKF": sc.EnKF(),
        "particle filter": sc.ParticleFilter(resample=1.0),
        "closed form": sc.ClosedFormFilter(),
    }


@dataclass(frozen=True)
class Case:
    """A forecast ensemble, an observation of a truth, and draws of the exact posterior."""

    forecast: torch.Tensor
    y: torch.Tensor
    model: sc.ObservationModel
    mean: torch.Tensor
    var: torch.Tensor
    clouds: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def of(cls, prior: str, operator: str, error: float, members: int, seed: int) -> Case:
        streams = rng.spawn(rng.seeded(seed), 5)
        draws = PRIORS[prior](DRAWS, streams[0])
        h = sc.observations.Function(OPERATORS[operator])
        model = sc.ObservationModel(h, std=error * float(h(draws).std()))
        y = model.sample(PRIORS[prior](1, streams[1]), streams[2])[0]
        w = model.log_likelihood(y, draws).softmax(0)
        mean = w @ draws
        clouds = tuple(
            draws[torch.multinomial(w, members, True, generator=stream)] for stream in streams[3:]
        )
        forecast = PRIORS[prior](members, rng.seeded(seed + 1_000_000))
        return cls(forecast, y, model, mean, w @ (draws - mean).square(), clouds)

    def score(self, method: sc.Filter) -> dict[str, float]:
        """Return W1, bias in exact standard deviations, ratio of variances, and the cost."""
        began = time.process_time()
        x, info = method.analyse(self.forecast, self.y, self.model, rng.seeded(7))
        spent = time.process_time() - began
        bias = (x.mean(0) - self.mean) / self.var.sqrt()
        return {
            "w1": float(wasserstein(x, self.clouds[0])),
            "bias": float(bias.square().mean()),
            "ratio": float((x.var(0) / self.var).log().mean()),
            "evaluations": float(info.get("evaluations", 0)),
            "seconds": spent,
        }


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, 60 members")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--bandwidth", type=float, default=0.1)
    options = parser.parse_args()
    seeds, members = (1, 60) if options.quick else (options.seeds, MEMBERS)
    compared = methods(options.bandwidth)
    total: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in compared}
    print(f"| prior, operator, error | {' | '.join(compared)} |")
    print("|---|" + "---|" * len(compared))
    for prior in PRIORS:
        for operator in OPERATORS:
            for error in ERRORS:
                cases = [Case.of(prior, operator, error, members, seed) for seed in range(seeds)]
                floor = sum(float(wasserstein(*case.clouds)) for case in cases)
                cells = []
                for name, method in compared.items():
                    scores = [case.score(method) for case in cases]
                    ratio = sum(score["w1"] for score in scores) / floor
                    total[name] += [(ratio, score) for score in scores]
                    cells.append(f"{ratio:.1f}")
                row = f"{prior}, {operator}, {error:g}"
                print(f"| {row} | {' | '.join(cells)} |", flush=True)
    print("\n| method | W1, mean | W1, worst | bias | variance | evaluations | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, found in total.items():
        ratios = torch.tensor([ratio for ratio, _ in found])
        mean = {key: sum(s[key] for _, s in found) / len(found) for key in found[0][1]}
        print(
            f"| {name} | {ratios.mean():.2f} | {ratios.max():.1f} | {mean['bias'] ** 0.5:.2f} | "
            f"{torch.tensor(mean['ratio']).exp():.2f} | {mean['evaluations']:.0f} | "
            f"{mean['seconds']:.2f} |"
        )


if __name__ == "__main__":
    main()
