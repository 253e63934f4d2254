"""Is SDA honest where one variable of Lorenz-63 is observed rarely? Simulation-based calibration.

Truths are drawn from the system, y is observed at every twelfth of 65 states with an error of
0.05 standard deviations, and members are drawn, by SDA alone and after sweeps of conditional SMC.
Were the members of the posterior, the rank of the truth among them would be uniform, for each
summary of a trajectory, and their central intervals would cover what they say.

A file of ranks grows by one line per truth and method; what is there is not computed again.

    python examples/calibration.py --truths 100 --ranks ranks.csv --out calibration.png
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import torch
from scipy.stats import chisquare

import scorda as sc
from scorda.core import rng
from scorda.core.shapes import Float, Int, Tensor
from scorda.report.base import METHODS, MUTED, style, subplots

STEPS, EVERY, STD = 64, 12, 0.05 * 9.0
# Members of a group that is polished together; one of them makes room for the truth, so that
# there are as many ranks.
MEMBERS = 64
SUMMARIES = {
    "x, first state": lambda x: x[:, 0, 0],
    "y, middle": lambda x: x[:, 32, 1],
    "z, last state": lambda x: x[:, 64, 2],
    "mean of x": lambda x: x[..., 0].mean(1),
    "largest z": lambda x: x[..., 2].amax(1),
}
LABELS = {"plain": "SDA", "polished": "SDA, 4 sweeps of 64 particles"}
BINS = 8


def summaries(x: Float[Tensor, "ensemble time state"]) -> Float[Tensor, "ensemble summaries"]:
    """Return the scalars that are ranked."""
    return torch.stack([summary(x) for summary in SUMMARIES.values()], 1)


def ranks(
    x: Float[Tensor, "ensemble time state"], truth: Float[Tensor, "time state"]
) -> Int[Tensor, "summaries"]:
    """Return how many of the members but the last lie below the truth."""
    return (summaries(x)[:-1] < summaries(truth[None])).sum(0)


def drawn(seed: int, prior: sc.priors.Prior) -> dict[str, list[int]]:
    """Return the ranks of one truth by method."""
    model, system = sc.ObservationModel(sc.Select([1]), std=STD), sc.systems.Lorenz63()
    truth, problem = sc.twin_experiment(
        system, model, STEPS, EVERY, rng.at((seed, 11), 0), start=0
    )
    x = sc.SDA(prior).assimilate(problem, MEMBERS, rng.at((seed, 12), 0)).states
    polished = sc.ConditionalSMC(4, 64).improved(x, problem, rng.at((seed, 13), 0))
    found = {"plain": x, "polished": polished}
    return {name: ranks(states, truth).tolist() for name, states in found.items()}


def coverage(found: Int[Tensor, "truths summaries"], level: float) -> tuple[float, float]:
    """Return the share of truths within a central interval, and its standard error.

    It is a mean over the summaries of one truth, which depend on each other: truths alone count.
    """
    low = (1 - level) / 2
    u = (found + 0.5) / MEMBERS
    inside = ((u > low) & (u < 1 - low)).double().mean(1)
    return float(inside.mean()), float(inside.std() / len(inside) ** 0.5)


def uniformity(found: Int[Tensor, "truths summaries"]) -> dict[str, float]:
    """Return for each summary the p-value of a chi-squared test that its ranks are uniform."""
    bins = (found * BINS // MEMBERS).unbind(1)
    counts = [torch.bincount(row, minlength=BINS).numpy() for row in bins]
    return {name: float(chisquare(n).pvalue) for name, n in zip(SUMMARIES, counts, strict=True)}


def read(path: Path) -> dict[str, dict[int, list[int]]]:
    """Return the ranks in a file by method and seed."""
    found: dict[str, dict[int, list[int]]] = {name: {} for name in LABELS}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for method, seed, *row in list(csv.reader(file))[1:]:
                found[method][int(seed)] = [int(rank) for rank in row]
    return found


def figure(found: dict[str, Int[Tensor, "truths summaries"]]) -> object:
    """Draw histograms of the ranks, with the band that holds 95 % of the bars of uniform ones."""
    with style():
        drawing, axes = subplots(len(SUMMARIES), len(found), 7.0, 8.0, sharey=True)
        for column, (name, of) in enumerate(found.items()):
            expected = len(of) / BINS
            band = 1.96 * math.sqrt((1 - 1 / BINS) / expected)
            for row, summary in enumerate(SUMMARIES):
                counts = torch.bincount(of[:, row] * BINS // MEMBERS, minlength=BINS)
                panel = axes[row, column]
                panel.axhspan(1 - band, 1 + band, color="#d9d9d9", linewidth=0)
                panel.axhline(1, color=MUTED, linewidth=0.8)
                places = [(i + 0.5) / BINS for i in range(BINS)]
                panel.bar(places, (counts / expected).tolist(), 0.86 / BINS, color=METHODS[column])
                panel.set(xlim=(0, 1), xticks=[0, 0.5, 1])
                if column == 0:
                    panel.set_ylabel(summary)
            axes[0, column].set_title(LABELS[name])
        drawing.supxlabel("rank of the truth among the members", fontsize=10)
    return drawing


def main() -> None:
    """Draw the truths that are missing, print the coverage, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--truths", type=int, default=100)
    parser.add_argument("--ranks", type=Path, default=Path("ranks.csv"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    prior, there = sc.priors.load("lorenz63"), read(given.ranks)
    with given.ranks.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not any(there.values()):
            writer.writerow(["method", "seed", *SUMMARIES])
        for seed in sorted(set(range(given.truths)) - there["polished"].keys()):
            for name, row in drawn(seed, prior).items():
                writer.writerow([name, seed, *row])
            file.flush()
    found = {name: torch.tensor(list(rows.values())) for name, rows in read(given.ranks).items()}
    for name, of in found.items():
        for level in (0.5, 0.9):
            share, error = coverage(of, level)
            print(
                f"{LABELS[name]}, {len(of)} truths: {level:.0%} covers {share:.3f} ± {error:.3f}"
            )
        for summary, p in uniformity(of).items():
            print(f"  ranks of {summary}: p = {p:.2f}")
    if given.out is not None:
        figure(found).savefig(given.out, dpi=110)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
