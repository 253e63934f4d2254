"""Settings that say what is to be assimilated, which several commands share."""

# Annotations are objects here, not texts: those of a base are read in the modules of the commands.
from dataclasses import dataclass, field
from pathlib import Path

from scorda.cli.observed import limit_of
from scorda.cli.settings import SystemOptions, UserError

__all__ = ["Posed"]


@dataclass
class Posed:
    """Settings that say what is to be assimilated."""

    # A command may have it as a setting.
    quick = False

    observations: list[str] = field(default_factory=list)
    """Tables (CSV or NetCDF), or fields with NaN (NetCDF or zarr); repeat the flag for several."""

    system: str | None = None
    """Built-in system, or your own as module:object; a trained prior needs none."""

    method: str = "enkf"
    """Method: one that `scorda methods` lists, or your own as module:Class. Its settings, which
    `scorda methods NAME` explains, are flags too."""

    members: int | None = None
    """Number of members (default: those of --initial, or 40)."""

    initial: str | None = None
    """Members at step 0 instead of draws of the system: fields with an axis of members (NetCDF or
    zarr), also a posterior, at the datetime of --start or at step 0."""

    steps: int | None = None
    """Number of model steps (default: up to the last observation)."""

    start: str | None = None
    """Datetime of step 0 (ISO 8601), where the observations have datetimes."""

    tolerance: float | None = None
    """Largest distance of an observation from its step in time (default: half a step)."""

    std: float | None = None
    """Error of observations that have none in their file."""

    law: list[str] = field(default_factory=list)
    """Law of the observed values where a column `law` does not say: gaussian (default),
    student:DF, laplace, huber:K, lognormal, censored:LIMIT, poisson, negative-binomial:R or
    bernoulli; of one variable as wind=student:4; repeat the flag for several."""

    variable: str | None = None
    """Variable that fields of observations hold, where the system has several."""

    units: list[str] = field(default_factory=list)
    """Unit of a variable in tables that do not say, as t2m=degC; repeat the flag for several."""

    missing: list[float] = field(default_factory=list)
    """Value that stands for a missing one, as -9999; repeat the flag for several."""

    nearest: float | None = None
    """Observe the nearest point of the grid to a position of a table, up to this distance (km on
    the globe), instead of interpolating."""

    gross_error_check: str = "10"
    """Standard deviations of its variable's climate beyond which a value is left out, or "off";
    the climate is that of the prior, or of first states. A filter's own check of innovations is
    --method.gross-error-check."""

    truth: str | None = None
    """NetCDF file of the truth, where there is one, for scores."""

    withhold: float | None = None
    """Share of the observations to keep back, and to score with."""

    withhold_seed: int = 0
    """Seed of which observations are kept back."""

    seed: int = 0
    """Seed of the run."""

    dtype: str = "float32"
    """Precision: float32 or float64."""

    device: str = "cpu"
    """Device of the computation, such as cuda."""

    threads: int | None = None
    """Number of threads (default: all cores); part of what determines the last bits."""

    parameter: list[str] = field(default_factory=list)
    """Unknown parameter of the system and its prior, as rho=uniform:20,35, lognormal:8,0.2 or
    normal:28,3; ~0.01 behind it lets it walk at random, by that share of the prior's spread per
    step, and @12 gives it a position for localization. Repeat the flag for several."""

    bounded: list[str] = field(default_factory=list)
    """Bounds of a variable of the system, which methods never leave, as humidity=0,1 or rain=0,
    without upper bound; a trained prior has its own. Repeat the flag for several."""

    circular: list[str] = field(default_factory=list)
    """Circular variable of the system and its period, as direction=360, or both ends of a turn, as
    phase=-180,180: differences and means go the short way round. Repeat the flag for several."""

    system_options: SystemOptions = field(default_factory=dict)
    """Options of the system, as --system.NAME VALUE."""

    config: Path | None = None
    """TOML file with these settings; flags win."""

    def check(self) -> None:
        """Refuse what makes no sense, and set up torch, before any code of a user is imported."""
        from scorda.cli.common import check_device, check_system, check_there, units_of, use_torch

        if not self.observations:
            raise UserError("Give --observations, a file of observations.")
        if self.members is not None and self.members < 1:
            raise UserError(f"Got --members {self.members}: give at least 1.")
        if self.withhold is not None and not 0 < self.withhold < 1:
            raise UserError(f"Got --withhold {self.withhold}: give a share between 0 and 1.")
        use_torch(self.dtype, self.threads)
        units_of(self.units)
        limit_of(self)
        check_device(self.device)
        check_system(self.system)
        check_there([*self.observations, *filter(None, [self.truth, self.initial])])
