"""What every room may use: shapes, random streams, spaces, times, files, Gaussian algebra."""

from scorda.core.errors import DegenerateEnsemble, DivergenceError, RunError
from scorda.core.gaussian import gaussian_condition, gaussian_log_density
from scorda.core.space import Standardisation, StateSpace
from scorda.core.tapers import GaspariCohn

__all__ = [
    "DegenerateEnsemble",
    "DivergenceError",
    "GaspariCohn",
    "RunError",
    "Standardisation",
    "StateSpace",
    "gaussian_condition",
    "gaussian_log_density",
]
