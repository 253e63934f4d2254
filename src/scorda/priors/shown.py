"""Priors of trajectories as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scorda.core.shown import as_html

if TYPE_CHECKING:
    from scorda.priors.trajectory import Prior

__all__ = ["prior_facts", "prior_html"]


def prior_html(prior: Prior) -> str:
    """Return a summary of a prior as HTML, with its space."""
    return as_html(type(prior).__name__, prior_facts(prior), {"space": prior.space._repr_html_()})


def prior_facts(prior: Prior) -> dict[str, object]:
    """Return what a summary of a prior says, by label; empty where there is nothing to say."""
    facts: dict[str, object] = {
        "name": getattr(prior, "name", ""),
        "process": repr(prior.process),
        "sampler": repr(prior.sampler),
        "guidance": repr(prior.guidance) if prior.guidance is not None else "",
        "daily cycle": "" if prior.diurnal_mean is None or len(prior.diurnal_mean) == 1 else "yes",
        "yearly cycle": "" if prior.annual is None else f"{len(prior.annual) // 2} harmonics",
        "device": prior.device,
    }
    architecture = getattr(prior, "architecture", {})
    if isinstance(architecture, Mapping):
        facts["network"] = ", ".join(f"{key} {value}" for key, value in architecture.items())
    static = getattr(prior, "provenance", {}).get("static")
    if isinstance(static, Sequence):
        named = [str(f["name"]) for f in static if isinstance(f, Mapping) and "name" in f]
        facts["static fields"] = ", ".join(named)
    return facts
