"""Whether a prior was trained on the system of a problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scorda.priors.trajectory import Prior, TrainedTrajectory
from scorda.systems.base import System, plain_settings

__all__ = ["other_settings"]

# Settings that the law of trajectories does not depend on.
WITHOUT_LAW = ("spinup",)


def other_settings(prior: Prior, system: Any) -> str:
    """Return a sentence that says which settings differ, where the prior's system is of that name.

    It is empty for priors of records, for other names, and where the settings are the same or are
    unknown parameters. A system of a prior's name may still differ in what is no plain number.
    """
    known = prior.provenance.get("system") if isinstance(prior, TrainedTrajectory) else None
    if not isinstance(known, Mapping) or not isinstance(known.get("settings"), Mapping):
        return ""
    if not isinstance(system, System) or system.name != known.get("name"):
        return ""
    learned, given = known["settings"], plain_settings(system)
    differ = [
        f"{name} = {learned[name]} instead of {value}"
        for name, value in given.items()
        if name not in WITHOUT_LAW and name in learned and learned[name] != value
    ]
    if not differ or system.space.parameters:
        return ""
    return (
        f"The prior was trained on {system.name} with {', '.join(differ)}: its posterior is that "
        "of the prior's system. Train one on this system (scorda train --system)."
    )
