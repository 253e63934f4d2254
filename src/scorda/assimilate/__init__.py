"""Assimilators: from a problem to samples of its posterior; the forecast/analysis cycle."""

from scorda.assimilate.base import REQUIREMENTS, Assimilator, Cost, check_members, check_needs
from scorda.assimilate.ensemble import check_inflation, inflate
from scorda.assimilate.errors import DegenerateEnsemble, DivergenceError, RunError
from scorda.assimilate.filter import Cycle, Filter, collect
from scorda.assimilate.localization import GaspariCohn

__all__ = [
    "REQUIREMENTS",
    "Assimilator",
    "Cost",
    "Cycle",
    "DegenerateEnsemble",
    "DivergenceError",
    "Filter",
    "GaspariCohn",
    "RunError",
    "check_inflation",
    "check_members",
    "check_needs",
    "collect",
    "inflate",
]
