"""Draw the figures of the documentation that show results over a swept parameter, and the ring.

python benchmarks/figures.py
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

from scorda.bench.problems import PROBLEMS
from scorda.bench.run import Row
from scorda.bench.scenario import Scenario
from scorda.report import flow
from scorda.report.comparison import sweep
from scorda.report.tradeoff import tradeoff

__all__ = ["main", "of_samplers", "ring", "rows"]

FOLDER = Path(__file__).parent
# Swept parameter and scores, by file.
SWEPT = {
    "lorenz96-masf-gap": ("gap", ("crps", "spread_skill")),
    "lorenz96-10": ("N", ("crps", "spread_skill")),
    "lorenz96-20": ("N", ("crps", "spread_skill")),
    "kolmogorov-masf": ("gap", ("rmse", "crps", "spread_skill", "ssim")),
    "kolmogorov-masf-64": ("gap", ("rmse", "crps", "spread_skill", "ssim")),
}


def main() -> None:
    """Write ``docs/NAME.png`` for each swept result, and the trade-off of SDA's samplers."""
    for name, (parameter, scores) in SWEPT.items():
        figure = sweep(rows(FOLDER / "results" / f"{name}.csv", parameter, scores), scores)
        figure.savefig(FOLDER.parent / "docs" / f"{name}.png", dpi=110)
    figure = tradeoff(of_samplers(FOLDER / "results" / "lorenz63-sda.csv"))
    figure.savefig(FOLDER.parent / "docs" / "tradeoff.png", dpi=110)
    ring().savefig(FOLDER.parent / "docs" / "kolmogorov-ring.png", dpi=110)


def ring() -> Figure:
    """Draw trajectories of the scenario `kolmogorov-ring` on 64 x 64 points; two minutes."""
    setup = PROBLEMS["kolmogorov-ring"]("kolmogorov-64")
    assert isinstance(setup, Scenario)
    given, entry = setup.prepare(0), next(e for e in setup.entries if e.label == "SDA")
    drawn = setup.run(entry, given, 0)
    return flow.panels(drawn, (0, 1, 3, 4, 6, 7), observations=given.problem.instruments)


def of_samplers(path: Path) -> list[Row]:
    """Read the rows of samplers by name; those of the default in other forms are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        records = [r for r in csv.DictReader(file) if "default," not in r["sampler"]]
    return [
        Row(
            label=f"{kind}, {record['sampler']}",
            members=256,
            seeds=8,
            mean={
                "w1": float(record[f"w1_{kind}"]),
                "evaluations": float(record["evaluations"]),
                "sampling_seconds": float(record["seconds"]),
            },
            error={},
            seconds=math.nan,
            expected={},
            tolerance=math.inf,
        )
        for kind in ("low", "high")
        for record in records
        if record["seconds"] and "polished" not in record["sampler"]
    ]


def rows(path: Path, parameter: str, scores: tuple[str, ...]) -> list[Row]:
    """Read the scores of a sweep; a method that was run at one value alone makes no line."""
    with path.open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    points = Counter(record["method"] for record in records)
    return [
        Row(
            label=f"{parameter}={record[parameter]}, {record['method']}",
            members=0,
            seeds=0,
            mean={score: float(record[score] or math.nan) for score in scores},
            error={score: float(record.get(f"{score}_error") or math.nan) for score in scores},
            seconds=math.nan,
            expected={},
            tolerance=math.inf,
        )
        for record in records
        if points[record["method"]] > 1
    ]


if __name__ == "__main__":
    main()
