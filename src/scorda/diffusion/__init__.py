"""Diffusion: forward processes, denoisers, guidance, samplers and training."""

from scorda.diffusion.bridge import BridgeODE, BridgeSampler, BridgeSDE, EnsembleDenoiser
from scorda.diffusion.denoisers import (
    Denoiser,
    GaussianDenoiser,
    KernelDenoiser,
    NetworkDenoiser,
)
from scorda.diffusion.guidance import DPS, MMPS, Guidance, InflatedLikelihood, SwitchedGuidance
from scorda.diffusion.measurement_aware import MeasurementAware
from scorda.diffusion.process import ForwardProcess
from scorda.diffusion.samplers import (
    Ancestral,
    Multistep,
    PredictorCorrector,
    Sampler,
    ScalarProcess,
    VarianceExploding,
)
from scorda.diffusion.stochastic_multistep import StochasticMultistep
from scorda.diffusion.training import Training, fit
from scorda.diffusion.twisted import Twisted
from scorda.diffusion.twists import StandardLikelihood
from scorda.diffusion.variance_preserving import VariancePreserving

__all__ = [
    "DPS",
    "MMPS",
    "Ancestral",
    "BridgeODE",
    "BridgeSDE",
    "BridgeSampler",
    "Denoiser",
    "EnsembleDenoiser",
    "ForwardProcess",
    "GaussianDenoiser",
    "Guidance",
    "InflatedLikelihood",
    "KernelDenoiser",
    "MeasurementAware",
    "Multistep",
    "NetworkDenoiser",
    "PredictorCorrector",
    "Sampler",
    "ScalarProcess",
    "StandardLikelihood",
    "StochasticMultistep",
    "SwitchedGuidance",
    "Training",
    "Twisted",
    "VarianceExploding",
    "VariancePreserving",
    "fit",
]
