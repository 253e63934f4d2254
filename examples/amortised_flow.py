"""MASF on Kolmogorov flow with a network that is trained once, beside one trained in each cycle.

The set-up is that of ``scorda bench kolmogorov-masf`` at gap 10. Below every network are local
Gaussians of the ensemble (`LocalGaussian`). Its weights are:

* Gaussian alone: no network;
* amortised: trained once, on the forecasts of an LETKF run with a truth of its own, and used as
  they are;
* fine-tuned: trained on the first forecast ensemble, then on that of each cycle, from the weights
  of the cycle before.

Run this file to print CRPS of the analyses, spread/skill, and wall-clock seconds per analysis;
+- is the standard error over the twin experiments. About 25 minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import mean, stdev

import torch

import scorda as sc
from scorda.bench.entry import Entry
from scorda.bench.problems import PROBLEMS

MEMBERS = 40
FORECASTS, STEPS, FINE_TUNE = 240, 1600, (20,)
LOCAL = sc.LocalGaussian(sc.GaspariCohn(0.4), block=2)
NETWORK = sc.NetworkPrior(("y", "x"), local=LOCAL, width=64, batch=32, rate=2e-3, every=20)


RECORD: list[torch.Tensor] = []


class Recorded(sc.LETKF):
    """An LETKF that keeps the forecasts that it is given."""

    def analyse(self, forecast, *rest):  # type: ignore[no-untyped-def]
        RECORD.append(forecast.clone())
        return super().analyse(forecast, *rest)


@contextmanager
def timed(label: str) -> Iterator[None]:
    clock = time.process_time()
    yield
    print(f"{label}: {time.process_time() - clock:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller one, to see it run")
    quick = parser.parse_args().quick
    forecasts, steps, fine_tune = (8, 10, (2,)) if quick else (FORECASTS, STEPS, FINE_TUNE)
    torch.set_num_threads(1)
    setup = PROBLEMS["kolmogorov-masf"]().points["gap=10"]
    if quick:
        setup = replace(setup, cycles=2, spinup=1, seeds=2)

    with timed("forecasts"):
        entry = Entry("LETKF", Recorded(radius=0.4, inflation=1.1), MEMBERS)
        long = replace(setup, entries=(entry,), cycles=forecasts, spinup=0)
        long.score(entry, long.prepare(900), 900)
    with timed("training"):
        model, space = setup.model, setup.system.space
        plan = replace(NETWORK, steps=steps, every=max(1, steps // 4), levels="these")
        trained = plan.amortised(torch.stack(RECORD[5:]), space, model)
    tuned = {
        number: replace(NETWORK, steps=5 * number, fine_tune=number, levels="these")
        for number in fine_tune
    }
    rows: list[tuple[str, sc.EnsemblePrior, bool]] = [
        ("Gaussian alone", LOCAL, True),
        ("amortised", trained, True),
        ("amortised", trained, False),
        *((f"fine-tuned, {number} steps", prior, True) for number, prior in tuned.items()),
    ]
    print("| prior | coupled | CRPS | spread/skill | s per analysis |\n|---|---|---|---|---|")
    for label, prior, coupled in rows:
        sampler = sc.BridgeODE(steps=9, order=2, coupled=coupled)
        # Chosen on other truths: members that are moved lack some spread, new draws do not.
        method = sc.MASF(prior, sampler=sampler, inflation=1.1 if coupled else 1.0)
        one = replace(setup, entries=(Entry(label, method, MEMBERS),))
        found = [one.score(one.entries[0], one.prepare(seed), seed) for seed in range(setup.seeds)]
        crps = [scores["crps"] for scores in found]
        error = stdev(crps) / len(crps) ** 0.5
        rest = (mean(s[name] for s in found) for name in ("spread_skill", "cycle_seconds"))
        print(
            f"| {label} | {'yes' if coupled else 'no'} | {mean(crps):.3f} +- {error:.3f} | "
            + " | ".join(f"{value:.2f}" for value in rest)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
