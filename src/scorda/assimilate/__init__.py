"""Assimilators: from a problem to samples of its posterior; the forecast/analysis cycle."""

from scorda.assimilate.base import REQUIREMENTS, Assimilator, check_members, check_needs
from scorda.assimilate.filter import Cycle, Filter
from scorda.assimilate.localization import GaspariCohn, check_inflation, inflate

__all__ = [
    "REQUIREMENTS",
    "Assimilator",
    "Cycle",
    "Filter",
    "GaspariCohn",
    "check_inflation",
    "check_members",
    "check_needs",
    "inflate",
]
