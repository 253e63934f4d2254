"""Scorda: score-based data assimilation beside the classical methods.

From a prior (a dynamical system, an ensemble, or a score network trained on trajectories), an
observation model and observations to samples of the posterior.
"""

from scorda import metrics, systems, testing
from scorda.assimilation import Assimilator, Filter
from scorda.core import (
    DegenerateEnsemble,
    DivergenceError,
    GaspariCohn,
    Standardisation,
    StateSpace,
)
from scorda.core.version import __version__
from scorda.diffusion import (
    DPS,
    MMPS,
    Ancestral,
    BridgeODE,
    BridgeSampler,
    BridgeSDE,
    Denoiser,
    ForwardProcess,
    GaussianDenoiser,
    Guidance,
    InflatedLikelihood,
    KernelDenoiser,
    MeasurementAware,
    Multistep,
    NetworkDenoiser,
    PredictorCorrector,
    Sampler,
    SwitchedGuidance,
    VarianceExploding,
    VariancePreserving,
)
from scorda.methods.closed_form import ClosedFormFilter
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.enks import EnKS
from scorda.methods.ensf import EnSF
from scorda.methods.gaussian_mixture import GaussianMixtureFilter
from scorda.methods.kalman import KalmanFilter, KalmanSmoother
from scorda.methods.letkf import LETKF
from scorda.methods.masf import MASF, NonlinearMASF, PublishedMASF, PublishedSDE
from scorda.methods.particle import ParticleFilter, ParticleSmoother
from scorda.methods.score_filter import ScoreFilter
from scorda.methods.sda import SDA
from scorda.methods.sf import SF
from scorda.methods.ssls import SSLS
from scorda.methods.variational import FourDVar
from scorda.observations import (
    Analysis,
    Average,
    Blur,
    Chain,
    Difference,
    Function,
    Interpolate,
    Linear,
    Mask,
    Modes,
    ObservationModel,
    Observations,
    Operator,
    Pointwise,
    Problem,
    Select,
    Speed,
    Stride,
    Vorticity,
    twin_experiment,
)
from scorda.priors import (
    AmortisedNetwork,
    EnsemblePrior,
    Gaussian,
    GaussianTrajectory,
    Kernel,
    LocalGaussian,
    Mixture,
    OnlineNetwork,
    Prior,
    TrainedTrajectory,
    load,
)
from scorda.store import open_posterior as open

__all__ = [
    "DPS",
    "ETKF",
    "LETKF",
    "MASF",
    "MMPS",
    "SDA",
    "SF",
    "SSLS",
    "AmortisedNetwork",
    "Analysis",
    "Ancestral",
    "Assimilator",
    "Average",
    "Blur",
    "BridgeODE",
    "BridgeSDE",
    "BridgeSampler",
    "Chain",
    "ClosedFormFilter",
    "DegenerateEnsemble",
    "Denoiser",
    "Difference",
    "DivergenceError",
    "EnKF",
    "EnKS",
    "EnSF",
    "EnsemblePrior",
    "Filter",
    "ForwardProcess",
    "FourDVar",
    "Function",
    "GaspariCohn",
    "Gaussian",
    "GaussianDenoiser",
    "GaussianMixtureFilter",
    "GaussianTrajectory",
    "Guidance",
    "InflatedLikelihood",
    "Interpolate",
    "KalmanFilter",
    "KalmanSmoother",
    "Kernel",
    "KernelDenoiser",
    "Linear",
    "LocalGaussian",
    "Mask",
    "MeasurementAware",
    "Mixture",
    "Modes",
    "Multistep",
    "NetworkDenoiser",
    "NonlinearMASF",
    "ObservationModel",
    "Observations",
    "OnlineNetwork",
    "Operator",
    "ParticleFilter",
    "ParticleSmoother",
    "Pointwise",
    "PredictorCorrector",
    "Prior",
    "Problem",
    "PublishedMASF",
    "PublishedSDE",
    "Sampler",
    "ScoreFilter",
    "Select",
    "Speed",
    "Standardisation",
    "StateSpace",
    "Stride",
    "SwitchedGuidance",
    "TrainedTrajectory",
    "VarianceExploding",
    "VariancePreserving",
    "Vorticity",
    "__version__",
    "load",
    "metrics",
    "open",
    "systems",
    "testing",
    "twin_experiment",
]
