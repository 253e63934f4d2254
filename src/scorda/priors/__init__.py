"""Priors: a forecast ensemble or a record of trajectories becomes a denoiser."""

from scorda.priors.as_azula import as_azula
from scorda.priors.base import EnsemblePrior, PreparedPrior, PriorRun
from scorda.priors.emulator import Emulator
from scorda.priors.gaussian import Gaussian
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.priors.kernel import Kernel
from scorda.priors.local import LocalGaussian
from scorda.priors.mixture import Mixture
from scorda.priors.network import AmortisedNetwork, NetworkTraining, OnlineNetwork
from scorda.priors.own import AzulaDenoiser, DiffusersDenoiser, ModuleDenoiser, OwnPrior
from scorda.priors.prior_filter import PriorFilter, PriorFilterRun
from scorda.priors.trajectory import Prior, Standardisation, TrainedTrajectory, load

__all__ = [
    "AmortisedNetwork",
    "AzulaDenoiser",
    "DiffusersDenoiser",
    "Emulator",
    "EnsemblePrior",
    "Gaussian",
    "GaussianTrajectory",
    "Kernel",
    "LocalGaussian",
    "Mixture",
    "ModuleDenoiser",
    "NetworkTraining",
    "OnlineNetwork",
    "OwnPrior",
    "PreparedPrior",
    "Prior",
    "PriorFilter",
    "PriorFilterRun",
    "PriorRun",
    "Standardisation",
    "TrainedTrajectory",
    "as_azula",
    "load",
]
