"""Scorda: score-based data assimilation beside the classical methods.

From a prior (a dynamical system, an ensemble, or a score network trained on trajectories), an
observation model and observations to samples of the posterior.
"""

from scorda import metrics, systems, testing
from scorda.assimilate import (
    Assimilator,
    DegenerateEnsemble,
    DivergenceError,
    Filter,
    GaspariCohn,
)
from scorda.bridge import BridgeODE, BridgeSampler, BridgeSDE
from scorda.denoise import Denoiser, GaussianDenoiser, KernelDenoiser, NetworkDenoiser
from scorda.ensemble_prior import EnsembleGaussian, EnsembleKernel, EnsemblePrior
from scorda.guide import DPS, MMPS, Guidance, InflatedLikelihood, Switched
from scorda.local_prior import LocalGaussian
from scorda.measurement_aware import MeasurementAware
from scorda.methods.closed_form import ClosedFormFilter
from scorda.methods.enkf import ETKF, EnKF
from scorda.methods.enks import EnKS
from scorda.methods.ensf import EnSF
from scorda.methods.kalman import KalmanFilter, KalmanSmoother
from scorda.methods.letkf import LETKF
from scorda.methods.masf import MASF
from scorda.methods.mixture import GaussianMixtureFilter
from scorda.methods.particle import ParticleFilter, ParticleSmoother
from scorda.methods.score import ScoreFilter
from scorda.methods.sda import SDA
from scorda.methods.sf import SF
from scorda.methods.ssls import SSLS
from scorda.methods.variational import FourDVar
from scorda.mixture_prior import EnsembleMixture
from scorda.modes import Modes
from scorda.network_prior import NetworkPrior
from scorda.observe import (
    Average,
    Blur,
    Chain,
    Difference,
    Function,
    Interpolate,
    Linear,
    Mask,
    ObservationModel,
    Observations,
    Operator,
    Pointwise,
    Select,
    Speed,
    Stride,
    Vorticity,
)
from scorda.prior import GaussianPrior, Prior, TrajectoryPrior, load
from scorda.problem import Analysis, Problem, twin_experiment
from scorda.process import ForwardProcess, VarianceExploding, VariancePreserving
from scorda.published import PublishedSDE
from scorda.sample import Ancestral, Multistep, PredictorCorrector, Sampler
from scorda.space import Standardisation, StateSpace
from scorda.store import open_posterior as open

__version__ = "0.1.0"

__all__ = [
    "DPS",
    "ETKF",
    "LETKF",
    "MASF",
    "MMPS",
    "SDA",
    "SF",
    "SSLS",
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
    "EnsembleGaussian",
    "EnsembleKernel",
    "EnsembleMixture",
    "EnsemblePrior",
    "Filter",
    "ForwardProcess",
    "FourDVar",
    "Function",
    "GaspariCohn",
    "GaussianDenoiser",
    "GaussianMixtureFilter",
    "GaussianPrior",
    "Guidance",
    "InflatedLikelihood",
    "Interpolate",
    "KalmanFilter",
    "KalmanSmoother",
    "KernelDenoiser",
    "Linear",
    "LocalGaussian",
    "Mask",
    "MeasurementAware",
    "Modes",
    "Multistep",
    "NetworkDenoiser",
    "NetworkPrior",
    "ObservationModel",
    "Observations",
    "Operator",
    "ParticleFilter",
    "ParticleSmoother",
    "Pointwise",
    "PredictorCorrector",
    "Prior",
    "Problem",
    "PublishedSDE",
    "Sampler",
    "ScoreFilter",
    "Select",
    "Speed",
    "Standardisation",
    "StateSpace",
    "Stride",
    "Switched",
    "TrajectoryPrior",
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
