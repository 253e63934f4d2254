r"""Priors of trajectories: what SDA asks for, and what is kept in a file.

A prior gives a denoiser of standardised trajectories ``(ensemble, time, *state)`` of any length.
`TrainedTrajectory` is a trained one.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scorda.core import rng
from scorda.core.calendars import Start
from scorda.core.files import check_finite_tensors, read_tensors, write_tensors
from scorda.core.ownership import check_output
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.times import phases_of, waves_of_year
from scorda.diffusion.batches import at_once
from scorda.diffusion.denoisers import Denoiser, NetworkDenoiser
from scorda.diffusion.guidance import DPS, MMPS, Guidance, InflatedLikelihood, SwitchedGuidance
from scorda.diffusion.samplers import (
    Ancestral,
    Multistep,
    PredictorCorrector,
    Sampler,
    ScalarProcess,
    VarianceExploding,
)
from scorda.diffusion.stochastic_multistep import StochasticMultistep
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.nn import build
from scorda.nn.spectral import AtTimes, ModeNetwork
from scorda.priors import kept
from scorda.priors.shown import prior_html

__all__ = [
    "Prior",
    "Standardisation",
    "TrainedTrajectory",
    "load",
]

PROCESSES = {c.__name__: c for c in (VarianceExploding, VariancePreserving)}
GUIDANCES = {c.__name__: c for c in (DPS, InflatedLikelihood, MMPS, SwitchedGuidance)}
SAMPLERS = {c.__name__: c for c in (Ancestral, Multistep, PredictorCorrector, StochasticMultistep)}


@dataclass(frozen=True)
class Standardisation:
    r"""Affine map to standardised states, :math:`z = (x - \mu) / \sigma`.

    Arguments:
        mean: Mean, broadcastable to ``(*state)``, in the units of the state.
        std: Standard deviation, likewise, positive.
    """

    mean: Float[Tensor, "..."]
    std: Float[Tensor, "..."]

    def __post_init__(self) -> None:
        if not (self.std > 0).all():
            raise ValueError("Got a standard deviation that is not positive: check the data.")

    @staticmethod
    def of(states: Float[Tensor, "..."], space: StateSpace) -> Standardisation:
        """Take mean and standard deviation per variable, over all leading and spatial axes."""
        flat, moments = states.flatten(-len(space.shape)), []
        for name in space.variables:
            # Values outside of the mask do not count.
            own = space.entries(name)
            values = flat[..., own][..., space.inside[own]]
            moments.append(torch.stack([values.mean(), values.std()]))
        mean, std = torch.stack(moments, 1)
        return Standardisation(space.constant(mean), space.constant(std))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Standardise states ``(..., *state)``."""
        return (x - self.mean.to(x)) / self.std.to(x)

    def inverse(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return standardised states to their units."""
        return z * self.std.to(z) + self.mean.to(z)


class Prior(ABC):
    """A distribution of trajectories of a space; subclasses write `denoiser`.

    Variables with bounds are standardised in their coordinates without (`StateSpace.unbounded`).
    """

    space: StateSpace
    standardisation: Standardisation
    process: ScalarProcess
    sampler: Sampler
    # Noise level above which SDA merges observed entries; 0 where the denoiser is exact.
    handover: float = 0.0
    # Guidance that SDA takes where none is named; None leaves it to SDA.
    guidance: Guidance | None = None
    # Whether the denoiser takes a noise level for each entry.
    per_entry: bool = False
    # Mean of each time of day, where the law has a daily cycle and no datetime yet.
    diurnal_mean: Tensor | None = None
    # Cosines and sines of its yearly cycle in turn, beside it.
    annual: Tensor | None = None
    # Harmonics of the year that its network sees.
    clock: int = 0
    # States of step 0, where the prior is one of transitions alone.
    start: Tensor | None = None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device on which trajectories are drawn."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Prior:
        """Return the same prior on a device."""

    def _repr_html_(self) -> str:
        return prior_html(self)

    def starting(self, start: Start, states: int) -> Prior:
        """The prior of so many states from a datetime on, without a cycle itself [final]."""
        if self.diurnal_mean is None:
            return self
        daily = self.diurnal_mean
        # One mean for all times of day has no phases.
        phase = phases_of(start, states, self.space) if len(daily) > 1 else [0] * states
        mean = daily[phase]
        if self.annual is not None:
            waves = waves_of_year(start, states, self.space, len(self.annual) // 2)
            mean = mean + torch.tensordot(waves.to(mean), self.annual, 1)
        scaled = Standardisation(mean, self.standardisation.std)
        without = {"diurnal_mean": None, "annual": None, **self._network_at(start, states)}
        return replace(self, standardisation=scaled, **without)  # type: ignore[type-var]

    def _network_at(self, start: Start, states: int) -> dict[str, Any]:
        """Return the network for these times as a setting, where it has a clock."""
        return {}

    @abstractmethod
    def denoiser(self, states: int) -> Denoiser:
        """Denoiser of standardised trajectories with that many states.

        Raises:
            ValueError: If the prior has no trajectories of that length.
        """

    def sample(
        self,
        members: int,
        steps: int,
        generator: rng.Seed = None,
        sampler: Sampler | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, "ensemble time *state"]:
        """Draw trajectories of ``steps + 1`` states, unconditional, in their units [final].

        They are NaN outside of the mask of the space.
        """
        sampler = sampler or self.sampler
        shape = (steps + 1, *self.space.shape)
        chunk, denoiser = at_once(shape), self.denoiser(steps + 1)
        with torch.no_grad():
            z = sampler.sample(
                denoiser,
                self.process,
                shape,
                members,
                generator,
                chunk=chunk,
                like=torch.empty(0, device=self.device),
                report=report,
            )
        return self.space.masked(self.space.bounded(self.standardisation.inverse(z)))


@dataclass(frozen=True)
class TrainedTrajectory(Prior):
    """A score network trained on trajectories.

    Approximate: as good as its training; states farther apart than `half_width` do not see each
    other in one evaluation.

    Arguments:
        architecture: Name and arguments of the network, as for ``nn.build``.
        network: The network.
        space: Space of the states.
        standardisation: Map between states and the network's coordinates.
        process: Forward process that sampling uses.
        sampler: Default sampler.
        provenance: System, data recipe, training, versions; kept in the file.
        diurnal_mean: Mean of each time of day ``(phases, *state)``, in place of that of
            `standardisation`; `starting` places it. Of one phase, where there is a yearly cycle.
        limit: Largest size of a denoised component, in standardised units (see
            `NetworkDenoiser`).
        handover: Noise level above which `SDA` merges observed entries, if the network takes
            a level per entry; below, it guides.
        guidance: Default guidance.
        start: States of step 0, ``(states, *state)``, of a prior that was trained on transitions:
            for `Emulator` alone. None: a prior of whole trajectories.
        annual: Cosines and sines of a yearly cycle in turn, ``(2 * harmonics, *state)``.
    """

    architecture: Mapping[str, Any]
    network: nn.Module = field(repr=False)
    space: StateSpace
    standardisation: Standardisation = field(repr=False)
    process: ScalarProcess = field(default_factory=VarianceExploding)
    sampler: Sampler = field(default_factory=Ancestral)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    diurnal_mean: Float[Tensor, "phases ..."] | None = field(default=None, repr=False)
    limit: float | None = None
    handover: float = 0.4
    guidance: Guidance | None = None
    start: Float[Tensor, "states ..."] | None = field(default=None, repr=False)
    annual: Float[Tensor, "waves ..."] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.network.requires_grad_(False).eval()

    @property
    def name(self) -> str:
        """Name of the system that it was trained on, or of the variables of a record."""
        system = self.provenance.get("system")
        named = system["name"] if isinstance(system, Mapping) else ", ".join(self.space.variables)
        return str(named)

    @property
    def clock(self) -> int:  # type: ignore[override]
        """Harmonics of the year that the network sees beside each state."""
        return int(self.architecture.get("clock", 0))

    def _network_at(self, start: Start, states: int) -> dict[str, Any]:
        if not self.clock:
            return {}
        assert isinstance(self.network, ModeNetwork)
        waves = waves_of_year(start, states, self.space, self.clock).to(self.device)
        return {"network": AtTimes(self.network, waves)}

    @property
    def per_entry(self) -> bool:  # type: ignore[override]
        """Whether the network was trained with levels that differ between entries."""
        return getattr(self.network, "per_entry", False)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> TrainedTrajectory:
        # A copy: the network of this prior stays where it is.
        return replace(self, network=deepcopy(self.network).to(device))

    @property
    def half_width(self) -> int:
        """The number k, where one output depends on 2k + 1 states."""
        return self.network.half_width  # type: ignore[return-value]

    def denoiser(self, states: int) -> NetworkDenoiser:
        if self.start is not None:
            raise ValueError(
                "This prior was trained on transitions, from one state to the next, and has no "
                "law of trajectories: make a system of it, `sc.priors.Emulator(prior)`, or "
                "--system emulator --system.file in the place of --prior."
            )
        if self.diurnal_mean is not None:
            raise ValueError(
                "This prior has a cycle of the day or year: say when the window begins, with "
                "prior.starting(datetime of step 0, states), or --start in the shell."
            )
        mean = self.standardisation.mean
        if mean.ndim > len(self.space.shape) and len(mean) != states:
            raise ValueError(
                f"Asked for {states} states of a prior that was started for {len(mean)}: "
                f"use prior.starting(..., {states})."
            )
        return NetworkDenoiser(self.network, self.limit)

    def save(
        self, path: str | Path, record: Mapping[str, Any] | None = None, half: bool = False
    ) -> None:
        """Write one safetensors file whose header holds everything but the weights.

        Arguments:
            path: File to write.
            record: All that decided the weights, of JSON types, to be kept in the header.
            half: Write the trained weights with 11 significant bits, in half of the bytes; `load`
                computes with them in 32 bits.

        Raises:
            ValueError: If a weight is not finite, or a file is there that Scorda did not write.
        """
        std = self.standardisation
        header = {
            "kind": "trajectory prior" if self.start is None else "transition",
            "architecture": dict(self.architecture),
            "process": _describe(self.process),
            "sampler": _describe(self.sampler),
            "limit": self.limit,
            "handover": self.handover,
            "guidance": None if self.guidance is None else _describe(self.guidance),
            "space": self.space.as_json(),
            "provenance": dict(self.provenance),
            "versions": versions(),
        } | ({} if record is None else {"record": dict(record)})
        tensors = {f"network.{n}": p for n, p in self.network.state_dict().items()}
        if half:
            # Buffers, such as a covariance, have a wider range than 16 bits.
            trained = {f"network.{n}" for n, _ in self.network.named_parameters()}
            tensors = {n: t.half() if n in trained else t.float() for n, t in tensors.items()}
        tensors |= {"standardisation.mean": std.mean, "standardisation.std": std.std}
        if self.diurnal_mean is not None:
            tensors["diurnal_mean"] = self.diurnal_mean
        if self.annual is not None:
            tensors["annual"] = self.annual
        if self.start is not None:
            tensors["start"] = self.start
        check_finite_tensors(path, tensors)
        write_tensors(check_output(path, overwrite=True), tensors, header)


def load(source: str | Path) -> TrainedTrajectory:
    """Load a trained prior: a shipped one, such as lorenz63, or a file.

    Shipped are lorenz63, lorenz96, kolmogorov (32 x 32 points) and kolmogorov-64.

    Raises:
        FileNotFoundError: If there is neither such a shipped prior nor such a file.
        ValueError: If the file is damaged, foreign, or does not fit the architecture it names, or
            if a weight is not finite.

    Example:
        >>> prior = sc.load("lorenz63")
        >>> prior.space.variables
        ('x', 'y', 'z')
    """
    path = Path(source)
    if not path.suffix:
        shipped = resources.files("scorda") / "weights"
        names = sorted(p.name.removesuffix(".safetensors") for p in shipped.iterdir())
        path = Path(str(shipped / f"{source}.safetensors"))
        if str(source) not in names:
            raise FileNotFoundError(
                f"There is no shipped prior {str(source)!r}: choose one of {names}, or give the "
                "path of a .safetensors file."
            )
    tensors, header = read_tensors(path)
    check_finite_tensors(path, tensors)
    kinds = ("trajectory prior", "transition")
    if isinstance(kind := header.get("kind"), str) and kind not in kinds:
        raise ValueError(
            f"{path} holds a {kind}, not a trained prior: give a file written by `scorda train`."
        )
    kept.check_trajectory(path, header, tensors)
    return _made(path, header, tensors)


def _made(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """Return the prior of a header and tensors, which are checked before it is built."""
    parts: dict[str, Any] = {"process": PROCESSES, "sampler": SAMPLERS, "guidance": GUIDANCES}
    described: dict[str, Any] = {name: header.get(name) for name in parts}
    for name, classes in parts.items():
        if described[name] is not None:
            kept.check_part(path, name, described[name], classes)
    # Files that do not name their axes yet have them in the order of a grid: z, y, x.
    named, names = dict(header["space"]), header["space"].get("coordinates")
    if isinstance(names, dict):
        named.setdefault("axes", sorted(names, reverse=set(names) <= set("xyz")))
    try:
        space = StateSpace.from_json(named)
        made: list[Any] = [
            None if described[name] is None else _rebuild(described[name], classes)
            for name, classes in parts.items()
        ]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    process, sampler, guidance = made
    weights = {
        n.removeprefix("network."): t.float() if t.dtype == torch.float16 else t
        for n, t in tensors.items()
        if n.startswith("network.")
    }
    kept.check_network(path, header["architecture"], weights, space)
    for name in ("standardisation.mean", "standardisation.std"):
        kept.check_broadcast(path, name, tensors[name], space.shape)
    daily = tensors.get("diurnal_mean")
    if daily is not None:
        kept.check_broadcast(path, "diurnal_mean", daily[:1].squeeze(0), space.shape)
    annual = tensors.get("annual")
    yearly = annual is not None or header["architecture"].get("clock")
    if (yearly and daily is None) or (annual is not None and len(annual) % 2):
        raise ValueError(f"{path} has an incomplete yearly cycle: train it again.")
    if annual is not None:
        kept.check_broadcast(path, "annual", annual[:1].squeeze(0), space.shape)
    start = tensors.get("start")
    if (start is None) == (header["kind"] == "transition"):
        raise ValueError(f"{path} is a {header['kind']} with other tensors: train it again.")
    if start is not None:
        kept.check_states(path, "start", start, space.shape)
    network = build(header["architecture"]).to(next(t.dtype for t in weights.values()))
    network.load_state_dict(weights)
    return TrainedTrajectory(
        header["architecture"],
        network,
        space,
        Standardisation(tensors["standardisation.mean"], tensors["standardisation.std"]),
        process,
        sampler,
        header["provenance"] | {"versions": header["versions"]},
        daily,
        header.get("limit"),
        header.get("handover", 0.4),
        guidance,
        start,
        annual,
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    # Not from the metadata, which a source tree that was never installed does not have.
    from scorda.core.version import __version__

    return {
        "python": platform.python_version(),
        "scorda": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _describe(settings: Any) -> dict[str, Any]:
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.init}
    values = {k: _describe(v) if is_dataclass(v) else v for k, v in values.items()}
    return {"name": type(settings).__name__} | values


def _rebuild(described: Mapping[str, Any], classes: Mapping[str, Any]) -> Any:
    """Make what a checked part of a header describes."""
    arguments = {
        key: _rebuild(value, classes) if isinstance(value, dict) else value
        for key, value in described.items()
        if key != "name"
    }
    return classes[described["name"]](**arguments)
