"""The page of a comparison of methods: one table, one figure, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from scorda.report.base import Row
from scorda.report.comparison import comparison
from scorda.report.pages import write_page
from scorda.report.picture import picture_of

__all__ = ["cell", "write_comparison"]

# Scores in one line of panels of the figure.
PANELS = 4


def cell(row: Row, score: str) -> str:
    """Return the mean of a score and its standard error, or how many runs diverged."""
    if row.failures:
        return f"{len(row.failures)} of {row.seeds} diverged"
    if score not in row.mean:
        return "–"
    mean = f"{row.mean[score]:.3f}"
    # One seed does not tell an error.
    return f"{mean} ± {row.error[score]:.3f}" if math.isfinite(row.error[score]) else mean


def write_comparison(
    rows: Sequence[Row], path: str | Path, title: str, facts: Mapping[str, str]
) -> Path:
    """Write one self-contained HTML page about a comparison, and return its path.

    Arguments:
        rows: A row for each method and setting.
        path: File to write.
        title: Title of the page.
        facts: Name and value of what all rows share.

    Raises:
        ValueError: If a file is there that Scorda did not write.
    """
    scores = list(dict.fromkeys(name for row in rows for name in row.mean))
    groups = [scores[i : i + PANELS] for i in range(0, len(scores), PANELS)]
    return write_page(
        Path(path),
        "comparison.html.j2",
        title=title,
        facts=facts,
        scores=scores,
        table=[
            (row, [(cell(row, score), row.mean.get(score)) for score in scores]) for row in rows
        ],
        pictures=[picture_of(comparison(rows, group)) for group in groups],
        failures=[f"{row.label}, {failure}" for row in rows for failure in row.failures],
    )
