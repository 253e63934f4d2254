"""``scorda train --prior``: a network over the Gaussian of a forecast ensemble, kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from scorda.cli.console import console, progress
from scorda.cli.settings import SystemOptions, UserError, flags_of, refuse, strings_of
from scorda.priors.gaussian import Gaussian
from scorda.priors.local import LocalGaussian
from scorda.priors.network.prior import NetworkTraining

if TYPE_CHECKING:
    from scorda.cli.training_files import TrainingFiles
    from scorda.core.shapes import Float, Tensor
    from scorda.core.space import StateSpace

__all__ = ["TrainNetwork", "train_network"]

QUICK_STEPS, QUICK_CYCLES = 20, 10
# Settings of the simulation.
SIMULATED = ("every", "std", "stations", "cycles", "members", "inflation")


@dataclass(frozen=True)
class Network:
    """The network to train.

    Arguments:
        prior: Gaussian that the network corrects; none: variances alone.
        axis: Periodic coordinate to convolve along, or two; without one the network is dense.
        training: Size of the network and settings of its training.
    """

    prior: Gaussian | LocalGaussian | None = field(default_factory=Gaussian)
    axis: str | tuple[str, str] | None = None
    training: NetworkTraining = field(default_factory=NetworkTraining)


@dataclass
class TrainNetwork:
    """Settings of where the forecasts come from, and where the network goes."""

    data: Path | None = None
    """Store of a filter's run, whose forecasts the network learns from."""

    system: str | None = None
    """System to simulate instead, with an EnKF that follows it; with --data it confirms the
    system of the run, where that is code of your own."""

    every: int = 1
    """Steps of --system between two observations."""

    std: float = 1.0
    """Error of the observations of --system."""

    stations: int | None = None
    """Grid points of --system that are observed, drawn at random (default: all)."""

    cycles: int = 200
    """Forecasts of --system to learn from."""

    members: int = 40
    """Members of these forecasts."""

    inflation: float = 1.05
    """Inflation of the EnKF."""

    seed: int = 0
    """Seed of truth, observations and members of --system; --training.seed is the network's."""

    threads: int | None = None
    """Number of threads (default: all cores)."""

    quick: bool = False
    """A few steps on few forecasts: shows that it runs."""

    out: Path = Path("network.safetensors")
    """File to write, for `scorda assimilate --method masf --prior FILE`; a checkpoint is beside it
    while the training runs."""

    resume: bool = False
    """Continue a training that was interrupted."""

    overwrite: bool = False
    """Replace a file that is there."""

    system_options: SystemOptions = field(default_factory=dict)
    """Options of the system, as --system.NAME VALUE."""

    config: Path | None = None
    """TOML file with these settings; flags win."""

    def check(self) -> None:
        """Refuse what makes no sense, before any code of a user is imported."""
        from scorda.cli.common import check_system, check_there, use_torch
        from scorda.cli.training_files import TrainingFiles

        if self.data is None and self.system is None:
            raise UserError("Give --data, the store of a filter's run, or --system, to simulate.")
        if self.out.suffix != ".safetensors":
            raise UserError(f"Got --out {self.out}: its name must end in .safetensors.")
        TrainingFiles(self.out, {}, self.resume, self.overwrite).check_free()
        check_system(self.system)
        check_there([] if self.data is None else [self.data])
        use_torch("float32", self.threads)


def train_network(tokens: list[str], content: Mapping[str, Any]) -> Callable[..., None]:
    """Return the command for the Gaussian that is chosen.

    Arguments:
        tokens: Those of the command line.
        content: That of the file of settings.
    """
    from scorda.cli.catalogue import settings_class
    from scorda.cli.method_flags import check_before_code

    check_before_code(TrainNetwork, tokens, content)
    chosen = strings_of(content) | flags_of(tokens)
    options, make = settings_class(Network, chosen, [f.name for f in fields(TrainNetwork)])

    def command(
        *,
        settings: Annotated[TrainNetwork | None, Parameter(name="*")] = None,
        network: Any = None,
    ) -> None:
        """Train a network on the forecasts of a filter, once for all cycles to come."""
        _train(settings or TrainNetwork(), make(network))

    group = "The network"
    command.__annotations__["network"] = Annotated[
        options | None, Parameter(name="*", group=group)
    ]
    return command


def _train(given: TrainNetwork, wanted: Network) -> None:
    from scorda.cli.training_files import TrainingFiles
    from scorda.core.lock import claimed

    given.check()
    files = TrainingFiles(given.out, {}, given.resume, given.overwrite)
    with claimed(given.out, files.seem_complete):
        _train_alone(given, wanted)


def _train_alone(given: TrainNetwork, wanted: Network) -> None:
    import torch

    from scorda.cli.training_files import TrainingFiles
    from scorda.core.lock import locked
    from scorda.store import records
    from scorda.store.identity import identity

    training = wanted.training
    if given.quick:
        training = replace(training, training_steps=QUICK_STEPS, validation_interval=QUICK_STEPS)
    wanted = replace(wanted, training=training)
    forecasts, space = _simulated(given, wanted) if given.data is None else _stored(given)
    record = identity(network=wanted, forecasts=forecasts, space=space)
    record = records.plain(record | {"threads": torch.get_num_threads()})
    files = TrainingFiles(given.out, record, given.resume, given.overwrite)
    if files.complete():
        console().print(f"network: {given.out} is complete")
        return
    with locked(given.out):
        _learn(given, wanted, forecasts, space, files)


def _learn(
    given: TrainNetwork,
    wanted: Network,
    forecasts: Float[Tensor, "cycles ensemble ..."],
    space: StateSpace,
    files: TrainingFiles,
) -> None:
    """Train the network and write it; the checkpoint is there meanwhile."""
    from scorda.priors.network.amortised import AmortisedNetwork

    if given.overwrite or not given.resume:
        files.checkpoint.remove()
    with progress("training") as update:

        def report(entry: dict[str, float]) -> None:
            update(int(entry["step"]), wanted.training.training_steps)

        network = AmortisedNetwork.train(
            forecasts,
            space,
            axis=wanted.axis,
            base=wanted.prior,
            training=wanted.training,
            report=report,
            checkpoint=files.checkpoint,
        )
    network.save(given.out, {**files.record, "complete": True})
    files.checkpoint.remove()
    found = network.report
    console().print(
        f"{len(forecasts)} forecasts of {forecasts.shape[1]} members: validation loss "
        f"{found['loss']:.4f}, of the Gaussian alone {found['gaussian_loss']:.4f}\n"
        f"network: {given.out}"
    )


def _simulated(given: TrainNetwork, wanted: Network) -> tuple[Tensor, StateSpace]:
    """Forecasts of an EnKF that follows a truth of the system."""
    import torch

    from scorda.cli.common import make_system
    from scorda.core import rng
    from scorda.methods.enkf import EnKF
    from scorda.observations.model import ObservationModel
    from scorda.observations.operators import Select
    from scorda.observations.problem import twin_experiment

    system = make_system(str(given.system), given.system_options)
    cycles = min(given.cycles, QUICK_CYCLES) if given.quick else given.cycles
    twin, places, run = rng.spawn(rng.seeded(given.seed), 3)
    operator = Select.stations(system.space, given.stations, places)
    model = ObservationModel(operator, std=torch.tensor(given.std))
    _, problem = twin_experiment(system, model, cycles * given.every, given.every, twin)
    localization = getattr(wanted.prior, "localization", None)
    enkf = EnKF(inflation=given.inflation, localization=localization)
    # The members at step 0 are no forecast.
    found = [c.forecast for c in enkf.run(problem, given.members, run) if c.step > 0]
    return torch.stack([forecast for forecast in found if forecast is not None]), system.space


def _stored(given: TrainNetwork) -> tuple[Tensor, StateSpace]:
    """Forecasts of a stored run: the states before each observed step, one step on."""
    import torch

    from scorda.cli.common import make_system, system_of
    from scorda.core import rng
    from scorda.store import open_posterior

    assert given.data is not None
    refuse(given, SIMULATED, "--data has no use for: leave it out")
    posterior = open_posterior(given.data)
    analysis = posterior.analysis
    if posterior.smoother or analysis.weights is not None:
        raise UserError(
            f"{given.data} is a run of {posterior.method}, which has no forecasts of members of "
            "equal weight: give the run of another filter."
        )
    named = system_of(given.data, posterior.configuration, given.system)
    if given.system_options and posterior.configuration.get("system"):
        raise UserError(f"{given.data} says the options of its system: leave --system.NAME out.")
    name, options = named.pop("name"), named | given.system_options
    system = make_system(name, options)
    observed = sorted({int(step) for step in posterior.observations["step"].values} - {0})
    generator = rng.seeded(given.seed)
    # Members that were dropped have no forecasts.
    staying = [i for i in range(len(analysis.states)) if i not in analysis.dropped]
    states = analysis.states[staying]
    forecasts = [system.step(states[:, step - 1], generator) for step in observed]
    if not forecasts:
        raise UserError(f"{given.data} has no observation after step 0: give a longer run.")
    return torch.stack(forecasts), system.space
