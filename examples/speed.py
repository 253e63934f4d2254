"""Measure how many guided evaluations of a trajectory a network does per second on one core.

SDA asks for one guided evaluation at each noise level: the network denoises a trajectory of 65
states, and the residual of the observations is pulled back through it (equation 15). Seconds are
those of the processor, in single precision. The rate of matrix products that the machine reaches
at the same time is printed too; the share of a network counts its matrix products only.

    python examples/speed.py [--compile] [--prior FILE] [--batches 128 1024]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scorda.core import rng
from scorda.diffusion.denoisers import NetworkDenoiser
from scorda.diffusion.guidance import GuidedDenoiser, InflatedLikelihood
from scorda.methods.sda import trajectory_model
from scorda.nn import build
from scorda.observations.model import ObservationModel
from scorda.observations.operators import Select
from scorda.observations.problem import twin_experiment
from scorda.priors.trajectory import TrainedTrajectory, load
from scorda.systems.lorenz import Lorenz63

STEPS, SIZE = 64, 1024
MLP = {"name": "window-mlp", "channels": 3, "k": 4, "width": 256, "depth": 5}


def seconds(call: Callable[[], object], least: float) -> float:
    """Return processor seconds of one call: the best of three runs of `least` seconds or more."""
    call()
    best = float("inf")
    for _ in range(3):
        calls, begin = 0, time.process_time()
        while calls == 0 or time.process_time() - begin < least:
            call()
            calls += 1
        best = min(best, (time.process_time() - begin) / calls)
    return best


def rates(least: float) -> tuple[float, float]:
    """Return operations per second of a matrix product, and of one as a convolution.

    Two libraries do these, and one may use wider instructions than the other.
    """
    a, b = torch.randn(2, SIZE, SIZE)
    product = 2 * SIZE**3 / seconds(lambda: torch.mm(a, b), least)
    # Members, channels, and steps as the networks have them, channels last.
    members, channels, states = 128, 256, 64
    images = torch.randn(members, states, 1, channels).permute(0, 3, 2, 1)
    kernel = torch.randn(channels, 1, 1, channels).permute(0, 3, 1, 2)
    one = seconds(lambda: nn.functional.conv2d(images, kernel), least)
    return product, 2 * members * states * channels**2 / one


def networks(paths: list[str]) -> dict[str, nn.Module]:
    """Return the shipped network, that of the paper with random weights, and others."""
    torch.manual_seed(0)
    mlp = build(MLP)
    # The layer starts at zero, and products with zeros might be dealt with apart.
    nn.init.normal_(mlp.last.weight, std=0.05)  # type: ignore[union-attr,arg-type]
    found = {
        "window-mlp, k = 4, width 256": mlp,
        "temporal-conv, shipped": load("lorenz63").network,
    }
    return found | {path: load(path).network for path in paths}


def guided(network: nn.Module, prior: TrainedTrajectory) -> GuidedDenoiser:
    """Return the denoiser of a posterior whose every eighth state is observed."""
    model = ObservationModel(Select([0]), std=0.4)
    _, problem = twin_experiment(Lorenz63(), model, STEPS, 8, rng.seeded(0), start=0)
    y, whole = trajectory_model(problem.instruments, prior.standardisation)
    network.requires_grad_(False).eval()
    return InflatedLikelihood().bind(NetworkDenoiser(network, prior.limit), y, whole)


def row(name: str, network: nn.Module, batch: int, compiled: bool, least: float) -> str:
    """Return one line of the table."""
    prior = load("lorenz63")
    u, noise = torch.randn(batch, STEPS + 1, 3), torch.tensor(0.1)
    with FlopCounterMode(display=False) as counter:
        guided(network, prior).denoise(u, noise)
    wait = "-"
    if compiled:
        torch.compiler.reset()
        network = torch.compile(network)  # type: ignore[assignment]
    denoiser = guided(network, prior)
    if compiled:
        begin = time.perf_counter()
        denoiser.denoise(u, noise)
        wait = f"{time.perf_counter() - begin:.0f} s"
    one = seconds(lambda: denoiser.denoise(u, noise), least)
    share = counter.get_total_flops() / one / max(rates(least))
    return f"| {name} | {batch} | {batch / one:.0f} | {share:.0%} | {wait} |"


def main(arguments: list[str] | None = None) -> list[str]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 1024])
    parser.add_argument("--prior", nargs="*", default=[], help="further priors, from their files")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--least", type=float, default=1.0, help="seconds per measurement")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    product, convolution = rates(given.least)
    print(f"products of matrices, on one core: {product / 1e9:.0f} GFLOP/s with torch.mm,")
    print(f"{convolution / 1e9:.0f} as a convolution\n")
    print("| network | batch | evaluations/s | share of the faster | compilation |")
    print("|---|---|---|---|---|")
    rows = []
    for name, network in networks(given.prior).items():
        for batch in given.batches:
            rows.append(row(name, network, batch, given.compile, given.least))
            print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
