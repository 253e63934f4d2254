"""Scorda: score-based data assimilation beside the classical methods.

From a prior (a dynamical system, an ensemble, or a score network trained on trajectories), an
observation model and observations to samples of the posterior.

Everyday names are here, all others in the packages: `scorda.priors`, `scorda.diffusion`,
`scorda.observations`, `scorda.assimilation`, `scorda.metrics`, `scorda.systems`, `scorda.report`
and `scorda.testing`. ``__init__.pyi`` lists them; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
