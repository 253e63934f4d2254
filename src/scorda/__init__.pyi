# The public names, for type checkers and for `lazy_loader`, which imports each on first use.
# What `from .methods` begins is written by `make methods`.

from . import (
    assimilation as assimilation,
    diffusion as diffusion,
    metrics as metrics,
    observations as observations,
    priors as priors,
    report as report,
    store as store,
    systems as systems,
    testing as testing,
)
from .assimilation import (
    RTPP as RTPP,
    RTPS as RTPS,
    Adaptive as Adaptive,
    Additive as Additive,
    Climatology as Climatology,
    ConditionalSMC as ConditionalSMC,
    Filter as Filter,
    Hybrid as Hybrid,
    Multiplicative as Multiplicative,
    analyse as analyse,
)
from .bench.compare import compare as compare
from .bench.without_truth import tune as tune
from .core import (
    GaspariCohn as GaspariCohn,
    RunError as RunError,
    StateSpace as StateSpace,
    rng as rng,
)
from .core.version import __version__ as __version__
from .methods.closed_form import ClosedFormFilter as ClosedFormFilter
from .methods.denkf import DEnKF as DEnKF
from .methods.emulator_particle import EmulatorParticleFilter as EmulatorParticleFilter
from .methods.enff import EnFF as EnFF
from .methods.enkf import ETKF as ETKF, EnKF as EnKF
from .methods.enkf_n import EnKFN as EnKFN
from .methods.enks import EnKS as EnKS
from .methods.ensf import EnSF as EnSF
from .methods.ensrf import EnSRF as EnSRF
from .methods.esmda import ESMDA as ESMDA
from .methods.gaussian_mixture.filter import GaussianMixtureFilter as GaussianMixtureFilter
from .methods.ienks import IEnKS as IEnKS
from .methods.interpolation import OptimalInterpolation as OptimalInterpolation
from .methods.kalman import KalmanFilter as KalmanFilter, KalmanSmoother as KalmanSmoother
from .methods.letkf import LETKF as LETKF
from .methods.masf.bridge import MASF as MASF
from .methods.masf.nonlinear import NonlinearMASF as NonlinearMASF
from .methods.masf.published import PublishedMASF as PublishedMASF
from .methods.normal_score import NormalScoreEnKF as NormalScoreEnKF
from .methods.particle import (
    ParticleFilter as ParticleFilter,
    ParticleSmoother as ParticleSmoother,
)
from .methods.rank_histogram import RankHistogramFilter as RankHistogramFilter
from .methods.score_filter import ScoreFilter as ScoreFilter
from .methods.sda import SDA as SDA
from .methods.sf import SF as SF
from .methods.ssls import SSLS as SSLS
from .methods.variational.filter import FourDVar as FourDVar
from .methods.variational.threedvar import ThreeDVar as ThreeDVar
from .observations import (
    Analysis as Analysis,
    ObservationModel as ObservationModel,
    Observations as Observations,
    Problem as Problem,
    Select as Select,
    twin_experiment as twin_experiment,
)
from .priors import load as load
from .priors.from_states import train as train
from .reading.inspection import inspect as inspect
from .store import open_posterior as open_posterior
from .store.forecasting import forecast as forecast
from .store.online import resume as resume
from .store.verification import verify as verify
from .systems import WithParameters as WithParameters
