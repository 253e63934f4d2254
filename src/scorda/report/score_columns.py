"""Columns of the table of scores on a page: headings, and how a number is written."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COLUMNS", "Column"]


@dataclass(frozen=True)
class Column:
    """A column of the table of scores, whose best value is bold where small is good."""

    score: str
    heading: str
    below: str = ""
    small_is_good: bool = False

    def cell(self, value: float | None) -> str:
        """Return the score as it stands in the table."""
        match self.score:
            case _ if value is None:
                return "–"
            case "evaluations":
                return f"{value:.0f}"
            case "coverage" | "observation_coverage":
                return f"{100 * value:.0f} %"
            case "seconds":
                return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


COLUMNS = (
    Column("rmse", "RMSE", "of the mean", True),
    Column("spread", "Spread"),
    Column("spread_skill", "Spread/skill", "1 is reliable"),
    Column("crps", "CRPS", "fair", True),
    Column("coverage", "Coverage", "of the 90 % interval"),
    Column("wasserstein", "W1", "to the reference", True),
    Column("observation_rmse", "RMSE", "withheld values", True),
    Column("innovation_chi2", "χ²", "1 is reliable"),
    Column("observation_crps", "CRPS", "withheld values", True),
    Column("observation_log", "−log p", "withheld values", True),
    Column("observation_coverage", "Coverage", "of the 90 % interval"),
    Column("evaluations", "Evaluations", "of the network"),
    Column("seconds", "Seconds"),
)
