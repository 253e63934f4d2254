# The names of this package; `lazy_loader` imports each on first use.

from . import files as files, rng as rng, times as times
from .errors import (
    DegenerateEnsemble as DegenerateEnsemble,
    DivergenceError as DivergenceError,
    RunError as RunError,
)
from .gaussian import (
    gaussian_condition as gaussian_condition,
    gaussian_log_density as gaussian_log_density,
)
from .space import StateSpace as StateSpace
from .tapers import GaspariCohn as GaspariCohn
