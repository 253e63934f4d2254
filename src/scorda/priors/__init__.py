"""Priors: a forecast ensemble or a record of trajectories becomes a denoiser."""

from scorda.priors.base import EnsemblePrior
from scorda.priors.gaussian import EnsembleGaussian
from scorda.priors.kernel import EnsembleKernel
from scorda.priors.local import LocalGaussian
from scorda.priors.mixture import EnsembleMixture
from scorda.priors.network.prior import NetworkPrior
from scorda.priors.prior_filter import PriorFilter
from scorda.priors.trajectory import GaussianTrajectory, Prior, TrainedTrajectory, load

__all__ = [
    "EnsembleGaussian",
    "EnsembleKernel",
    "EnsembleMixture",
    "EnsemblePrior",
    "GaussianTrajectory",
    "LocalGaussian",
    "NetworkPrior",
    "Prior",
    "PriorFilter",
    "TrainedTrajectory",
    "load",
]
