"""Sentences about how the members of a stored posterior were corrected (`Twisted`, `polish`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from scorda.diffusion.twisted import TRUSTED, spread_of_evidence, untrusted
from scorda.store.posterior import Posterior

__all__ = ["corrections_of"]

# Share of states that sweeps must replace, for the members to be more the posterior's than the
# sampler's.
RENEWED = 0.5


def corrections_of(posterior: Posterior) -> list[str]:
    """Return what a run reports of its weights and sweeps, in sentences; none of other runs."""
    report, said = posterior.info.get("report", {}), []
    if "roots" in report:
        groups, lowest = _flat(report["log_evidence"]), _flat(report["lowest_ess"])
        mean, spread = spread_of_evidence(groups.tolist())
        apart = f" (standard deviation {spread:.2f})"
        if np.isnan(spread):
            apart = ", which cannot tell whether its weights are to be trusted; several can"
        said.append(
            f"Log evidence {mean:.2f} of {len(groups)} group{'s' * (len(groups) > 1)}{apart}; "
            f"effective sample size at least {lowest.min():.0%} of a group; resampled "
            f"{_flat(report['resampled']).mean():.1f} times; members of a group descend from "
            f"{_flat(report['roots']).mean():.0f} starts."
        )
        if spread > TRUSTED:
            said.append(untrusted(spread))
    if "renewed" in report:
        share = least = _flat(report["renewed"]).mean()
        values = ""
        if "renewed_parameters" in report:
            of = _flat(report["renewed_parameters"]).mean()
            values, least = f", and the parameters of {of:.0%}", min(share, of)
        little = ": take more sweeps or particles" if least < RENEWED else ""
        said.append(f"Sweeps replaced {share:.0%} of the states of the members{values}{little}.")
    return said


def _flat(column: Any) -> np.ndarray:
    """Return the entries of all groups of all units."""
    return np.hstack([np.ravel(part) for part in column])
