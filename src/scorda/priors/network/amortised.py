r"""A network prior that is trained once, on the forecasts of many cycles, and kept in a file.

A forecast is far from Gaussian in some flows and close to it in others. So the network sees,
beside the features of every network, the mean and the spread of the ensemble in units of their
climate over all the forecasts. It serves as it is in every cycle from then on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scorda.core.files import check_finite_tensors, read_tensors, write_tensors
from scorda.core.ownership import check_output
from scorda.core.shapes import Float, Tensor
from scorda.core.space import StateSpace
from scorda.core.tapers import GaspariCohn
from scorda.diffusion.checkpoint import Checkpoint
from scorda.observations.augmentation import AugmentedSpace, as_linear
from scorda.observations.model import ObservationModel
from scorda.observations.modes import Modes
from scorda.observations.problem import Problem
from scorda.priors import kept
from scorda.priors.base import PriorRun
from scorda.priors.gaussian import Gaussian
from scorda.priors.local import LocalGaussian
from scorda.priors.network.dataset import Pool, checked
from scorda.priors.network.denoiser import Axes, Climate, Corrected, FittedNetwork
from scorda.priors.network.prior import (
    CONTEXT,
    BaseRun,
    NetworkPrior,
    NetworkTraining,
    check_entries,
    match,
)
from scorda.priors.network.training import learn

__all__ = ["AmortisedNetwork"]

KIND = "amortised network"
BASES: dict[str, type[Gaussian] | type[LocalGaussian]] = {
    kind.__name__: kind for kind in (Gaussian, LocalGaussian)
}


@dataclass(frozen=True)
class AmortisedNetwork(NetworkPrior):
    """A small denoising network that was trained on the forecasts of many cycles.

    Approximate. `train` makes one, `save` and `load` keep it in a file. It takes observations of
    entries of the state (masks, strides, selections with independent errors), and nonlinear ones
    at every grid point if it was trained for them. See ``NetworkPrior`` for the base.

    Arguments:
        axis: Name of a periodic coordinate to convolve along, or of two; None: a dense network.
        base: Prior that the network corrects, or None for variances alone.
        training: Size of the network and settings of its training.
        weights: Weights of the network by name.
        climate: Mean and standard deviation over the forecasts of the training.
        precision: Precision of the modes of the observing network that it was trained for, or
            None for many.
        shape: Shape of the states that it was trained on.
        axes: Names of their axes.
        report: Losses of the training.
    """

    _: KW_ONLY
    weights: Mapping[str, Tensor] = field(repr=False, compare=False)
    climate: Climate = field(repr=False, compare=False)
    precision: Float[Tensor, "..."] | None = field(default=None, repr=False, compare=False)
    shape: tuple[int, ...] = ()
    axes: tuple[str, ...] = ()
    report: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)

    of_entries = True

    @classmethod
    def train(
        cls,
        forecasts: Float[Tensor, "cycles ensemble ..."],
        space: StateSpace | None = None,
        model: ObservationModel | None = None,
        *,
        axis: str | tuple[str, str] | None = None,
        base: Gaussian | LocalGaussian | None = Gaussian(),
        training: NetworkTraining = NetworkTraining(),
        report: Callable[[dict[str, float]], None] | None = None,
        checkpoint: Checkpoint | str | Path | None = None,
    ) -> AmortisedNetwork:
        """Train a network on forecasts of many cycles.

        A share of ``training.validation`` of the members of each forecast is held back from its
        Gaussian and trained on, so the network corrects Gaussians of other members. Without a
        model it meets the noise levels of many observing networks, and serves them all.

        Arguments:
            forecasts: Forecasts, for instance those of another filter in a run of its own.
            space: Space of the states, for a ring or localization.
            model: The one observing network to train for, also a nonlinear one (``PairsOnGrid``).
                The network then serves this h and error alone, of which values may be absent.
            axis: As for the class.
            base: As for the class.
            training: As for the class.
            report: Called at every validation with step, loss and validation loss.
            checkpoint: File that a killed training resumes from; the caller removes it.

        Raises:
            ValueError: If these are no forecasts, or the network cannot take the observation.
        """
        forecasts = checked(forecasts, space)
        untrained = Climate(forecasts.new_zeros(1, 1), forecasts.new_ones(1, 1))
        plain = cls(axis, base, training, weights={}, climate=untrained)
        ensembles, places, linear = as_linear(forecasts, space, model)
        modes = None if linear is None else linear.modes(tuple(ensembles.shape[2:]))
        axes = plain.axes_in(modes, places)
        climate = Climate.of(ensembles, axes)
        run, held = plain.base_run(), training.held_back(ensembles.shape[1])
        parts = [
            (
                run.fit(e[:-held], modes, places),
                e[-held:] if modes is None else modes.forward(e[-held:]),
            )
            for e in ensembles.double()
        ]
        precision = None if modes is None else modes.precision
        pool = Pool.of(parts, axes, base is not None, climate, precision, training.weighting)
        network = plain.corrected(ensembles[0, :1], axes, CONTEXT)
        # The rate falls to zero over all steps: to stop before would be to stop half-way.
        steps, place = training.training_steps, Checkpoint.at(checkpoint)
        losses = learn(network, pool, training, steps, report=report, checkpoint=place)
        weights = {n: w.detach().clone() for n, w in network.correction.state_dict().items()}
        return replace(
            plain,
            weights=weights,
            climate=climate,
            precision=precision,
            shape=tuple(forecasts.shape[2:]),
            axes=() if space is None else space.axes,
            report=losses,
        )

    def check(self, space: StateSpace) -> None:
        super().check(space)
        if self.axis is None and self.shape != space.shape:
            raise ValueError(
                f"Got a network that was trained on states of shape {self.shape} for states of "
                f"shape {space.shape}: train one on forecasts of this system."
            )

    def begin(self, problem: Problem | None) -> AmortisedRun:
        return AmortisedRun(self, self.base_run())

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights, and the tensors beside them, by name."""
        tensors = {**self.weights, "centre": self.climate.centre, "scale": self.climate.scale}
        return tensors if self.precision is None else {**tensors, "precision": self.precision}

    def save(self, path: str | Path, record: Mapping[str, Any] | None = None) -> None:
        """Write one safetensors file, whose header holds all settings.

        Arguments:
            path: File to write.
            record: All that decided the weights, of JSON types, to be kept in the header.

        Raises:
            ValueError: If a weight is not finite, or a file is there that Scorda did not write.
        """
        header = {
            "kind": KIND,
            "axis": self.axis,
            "base": _described(self.base),
            "training": asdict(self.training),
            "space": {"shape": self.shape, "axes": self.axes},
            "report": dict(self.report),
        } | ({} if record is None else {"record": dict(record)})
        check_finite_tensors(path, self.tensors())
        write_tensors(check_output(path, overwrite=True), self.tensors(), header)

    @classmethod
    def load(cls, path: str | Path) -> AmortisedNetwork:
        """Read a network that `save` has written.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or holds something else, or a weight is not finite.
        """
        tensors, header = read_tensors(path)
        check_finite_tensors(path, tensors)
        if isinstance(kind := header.get("kind"), str) and kind != KIND:
            raise ValueError(
                f"{path} holds a {kind}, not an {KIND}: "
                "give a file that AmortisedNetwork.save has written."
            )
        kept.check_amortised(Path(path), header, tensors, NetworkTraining, LocalGaussian.__name__)
        climate = Climate(tensors.pop("centre"), tensors.pop("scale"))
        axis = header["axis"]
        try:
            base, training = _base(header["base"]), NetworkTraining(**header["training"])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"The header of {path} has settings that this version of Scorda does not take "
                f"({error}): train the network again."
            ) from error
        return cls(
            tuple(axis) if isinstance(axis, list) else axis,
            base,
            training,
            precision=tensors.pop("precision", None),
            weights=tensors,
            climate=climate,
            shape=tuple(header["space"]["shape"]),
            axes=tuple(header["space"]["axes"]),
            report=header["report"],
        )


def _described(base: Gaussian | LocalGaussian | None) -> dict[str, Any] | None:
    """What a header says of a base; JSON has no infinite radius, which is None there."""
    if base is None:
        return None
    options = {"name": type(base).__name__} | asdict(base)
    if base.localization is not None and math.isinf(base.localization.radius):
        options["localization"] = {"radius": None}
    return options


def _base(described: Mapping[str, Any] | None) -> Gaussian | LocalGaussian | None:
    """The base that a header describes."""
    if described is None:
        return None
    options = dict(described)
    kind = BASES[options.pop("name")]
    if options["localization"] is not None:
        radius = options["localization"]["radius"]
        options["localization"] = GaspariCohn(math.inf if radius is None else radius)
    return kind(**options)


@dataclass(eq=False)
class AmortisedRun(PriorRun):
    """A run of an amortised network, which is built once for all cycles.

    An observing network is checked where it is not that of the cycle before.

    Arguments:
        settings: The network.
        base: Run of the prior that it corrects.
    """

    settings: AmortisedNetwork
    base: BaseRun
    _built: tuple[StateSpace | AugmentedSpace | None, nn.Module, Axes] | None = None
    _checked: Modes | None = None

    def fit(
        self,
        ensemble: Float[Tensor, "ensemble ..."],
        modes: Modes | None = None,
        space: StateSpace | AugmentedSpace | None = None,
    ) -> FittedNetwork:
        prior = self.settings
        if self._built is None or self._built[0] is not space or space is None:
            self._built = space, *self._build(ensemble[0], modes, space)
        if modes is not self._checked:
            check_entries(modes, space)
            _check_trained_for(prior.precision, modes)
            self._checked = modes
        (_, correction, axes), whole = self._built, self.base.fit(ensemble, modes, space)
        network = Corrected(correction, prior.training.min_noise, prior.training.max_noise)
        # Held to many forecasts in training: a few members of one could not tell.
        network.meets(whole, axes, prior.climate, prior.base is not None)
        return FittedNetwork(network, whole, axes)

    def _build(
        self, state: Tensor, modes: Modes | None, space: StateSpace | AugmentedSpace | None
    ) -> tuple[nn.Module, Axes]:
        """The trained correction of such states, and the axes that it lies along."""
        prior, weights = self.settings, self.settings.weights
        check_entries(modes, space)
        axes = prior.axes_in(modes, space)
        network = prior.corrected(state[None], axes, CONTEXT).correction
        if not match(weights, network):
            raise ValueError(
                f"The weights of this AmortisedNetwork are those of another width, number of "
                f"blocks or state than {tuple(state.shape)}: train it on forecasts of this system."
            )
        network.load_state_dict(weights)
        return network, axes


def _check_trained_for(precision: Tensor | None, modes: Modes | None) -> None:
    """Check that an observation is one that a network was trained for, or a part of it.

    Arguments:
        precision: Of the modes of the observing network in training, or None for many.
        modes: Of this observation, or None without one.

    Raises:
        ValueError: If it sees other entries, or with other errors, or on another grid.
    """
    if precision is None or modes is None:
        return
    given, known = modes.precision.cpu(), precision.cpu().to(modes.precision)
    # Of those that it was trained for some may be absent. Units may make any precision small.
    if given.shape != known.shape or not torch.allclose(
        given, torch.where(given > 0, known, 0.0), rtol=1e-3, atol=0.0
    ):
        raise ValueError(
            "Got an observation for which this AmortisedNetwork was not trained: give it the "
            "entries and errors of its model, or train one for this observation."
        )
