"""A filter that waits: forecasts and analyses one by one, saved between them and resumed.

A run of `Filter.assimilate` knows all its observations. This one is given each when it arrives,
takes the same steps (`scorda.assimilation.cycle`) with the same streams of random numbers, and so
has the same bits. What it saves is one file of numbers (safetensors) with a checksum: ensemble,
weights, what the method carries, the place in the streams, and the names of method and system.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, cast

from scorda.assimilation.base import check_needs
from scorda.assimilation.cycle import Cycle, Stepper
from scorda.assimilation.filter import Filter, check_start
from scorda.core import rng
from scorda.core.arrays import ArrayLike, as_tensor
from scorda.core.files import read_tensors, write_tensors
from scorda.core.headers import check_fields, parsed
from scorda.core.lock import locked
from scorda.core.ownership import check_output
from scorda.core.shapes import Float, Tensor
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.problem import Problem
from scorda.store.identity import identity
from scorda.store.rebuilt import described, rebuilt_filter, rebuilt_system
from scorda.systems.mapped import unmapped

__all__ = ["Online", "begun", "resume"]

KIND = "run of a filter"
NAMED: dict[str, Any] = {"name": str, "settings": dict[str, Any]}
RECORD: dict[str, Any] = {
    "step": int,
    "cycles": int,
    "observed": bool,
    "carries": bool,
    "streams": list[str],
    "method": dict[str, Any],
    "system": dict[str, Any],
    "sha256": dict[str, str],
}
# Steps of a run that has no end.
ENDLESS = range(2**40)


class Online:
    """A run of a filter that is given its data one by one; `Filter.start` and `resume` make it.

    With the same generator and the same data it has the bits of `Filter.assimilate`, also where
    it was saved and resumed in between.
    """

    def __init__(
        self,
        method: Filter,
        system: Any,
        start: Cycle,
        streams: Sequence[rng.Key],
        cycles: int = 0,
        observed: bool = False,
    ) -> None:
        self._method, self._system, self._streams = method, system, streams
        self._cycles, self._observed = cycles, observed
        steps = rng.Steps(streams[0], ENDLESS), rng.Steps(streams[1], ())
        self._stepper = Stepper(method, Problem(system, (), 0), start, *steps, cycles)
        self._now = start

    def __repr__(self) -> str:
        return (
            f"{self._method.name} of {len(self.ensemble)} members at step {self.step}, "
            f"{self._cycles} analyses so far"
        )

    @property
    def step(self) -> int:
        """Number of the step, from 0."""
        return self._now.step

    @property
    def ensemble(self) -> Float[Tensor, "ensemble ..."]:
        """The members at this step, ``(ensemble, *state)``, which must not be changed.

        They are the analysis where this step was observed, else the forecast. Members that were
        dropped are NaN.
        """
        return self._now.ensemble

    @property
    def weights(self) -> Float[Tensor, "ensemble"] | None:
        """Weights of the members, ``(ensemble,)``, or None where all are equal."""
        return self._now.weights

    @property
    def info(self) -> dict[str, Any]:
        """Report of the analysis of this step, as `Filter.assimilate` has one for each cycle."""
        return self._now.info

    def forecast(self, to: int) -> Float[Tensor, "ensemble ..."]:
        """Advance the members to a step, and return them.

        Arguments:
            to: Number of the step, counted from the start of the run.

        Raises:
            ValueError: If the run is beyond it, or it is no whole number.
            DivergenceError: If a member is no longer finite.
        """
        if not isinstance(to, Integral):
            raise ValueError(f"Got a forecast to step {to!r}: give a whole number.")
        if to < self.step:
            raise ValueError(
                f"Got a forecast to step {to}, but the run is at step {self.step}: give that or "
                "a later one."
            )
        while self.step < to:
            self._stepper.forecast()
            self._now, self._observed = self._stepper.cycle(), False
        return self.ensemble

    def observe(
        self,
        y: Float[Tensor, "..."] | ArrayLike | Sequence[ArrayLike],
        model: ObservationModel | Sequence[ObservationModel],
    ) -> Float[Tensor, "ensemble ..."]:
        """Condition the members on all that was observed at this step, and return them.

        Arguments:
            y: The values, in the shape that the operator returns for one state; NaN is absent.
            model: Operator and error. Of several instruments give lists of values and models.

        Raises:
            ValueError: If this step was analysed already, or values, operator and space do not
                fit, or the method cannot use this observation.
            TypeError: If there is no model.
            DivergenceError: If the analysis is not finite.
            DegenerateEnsemble: If the members are equal.
        """
        if not isinstance(model, ObservationModel | Sequence):
            raise TypeError(f"Got model = {model!r}: give an ObservationModel, or a list of some.")
        if self._observed:
            raise ValueError(
                f"Step {self.step} was analysed already: give all instruments of a step at once, "
                "in lists, or forecast to a later step."
            )
        values: Any
        values, models = ([y], [model]) if isinstance(model, ObservationModel) else (y, model)
        if len(values) != len(models):
            raise ValueError(f"Got {len(values)} values for {len(models)} models: give one each.")
        instruments = [
            Observations(m, [self.step], as_tensor(v, "y")[None])
            for v, m in zip(values, models, strict=True)
        ]
        problem = Problem(self._system, instruments, self.step)
        check_needs(self._method, problem)
        observed = problem.observed()
        if self.step in observed:
            if self._cycles == 0:
                # What a network is trained on first follows from the first observed step.
                self._stepper.begin(problem)
            self._stepper.observe(*observed[self.step])
            self._now, self._observed = self._stepper.cycle(), True
            self._cycles += 1
        return self.ensemble

    def save(self, path: str | Path) -> None:
        """Write all that `resume` needs as one file, which replaces an earlier one of a run.

        Raises:
            ValueError: If the name does not end in .safetensors, or something else is there.
        """
        path, now = Path(path), self._now
        if path.suffix != ".safetensors":
            raise ValueError(f"Got the file {path}: its name must end in .safetensors.")
        record = {
            "step": now.step,
            "cycles": self._cycles,
            "observed": self._observed,
            "carries": now.carried is not None,
            "streams": [f"{high:016x}{low:016x}" for high, low in self._streams],
            "method": described(self._method),
            "system": described(self._system),
            "sha256": _hashes(self._method, self._system),
        }
        tensors = {"ensemble": now.ensemble}
        if now.weights is not None:
            tensors["weights"] = now.weights
        tensors |= {f"carried.{name}": tensor for name, tensor in (now.carried or {}).items()}
        with locked(path):
            if check_output(path, overwrite=True).exists():
                _read(path)
            # As text: settings may be infinite, which a header must not hold.
            write_tensors(path, tensors, {"kind": KIND, "run": json.dumps(record)})


def begun(
    method: Filter,
    system: Any,
    ensemble: int | Float[Tensor, "ensemble ..."] | ArrayLike,
    generator: rng.Seed = None,
) -> Online:
    """Return a run at step 0; see `Filter.start`."""
    problem = Problem(system, (), 0, None if isinstance(ensemble, int) else ensemble)
    members = ensemble if isinstance(ensemble, int) else len(cast(Tensor, problem.initial))
    method.check(problem, members)
    generator = rng.as_generator(generator)
    draw, *streams = (rng.key(generator) for _ in range(3))
    start = method.drawn(problem, members, draw)
    return Online(method, system, replace(start, step=0), streams)


def resume(path: str | Path, method: Filter | None = None, system: Any = None) -> Online:
    """Return the run that ``Online.save`` wrote, to go on from there with the same bits.

    The file names no code: what is neither a method of Scorda (or of an installed package that
    announces it) nor a built-in system with plain settings has to be given again.

    Arguments:
        path: The file.
        method: The filter of the run.
        system: Its system.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or holds something else, or method or system are not those of
            the run, or have to be given.

    Example:
        A filter that is fed as observations come, saved, and taken up again:

        >>> system, seen = sc.systems.Lorenz63(), sc.ObservationModel(sc.Select([0]), std=0.5)
        >>> online = sc.EnKF().start(system, 20, generator=0)
        >>> _ = online.forecast(to=8)
        >>> _ = online.observe([1.5], seen)
        >>> online.save("today.safetensors")
        >>> sc.resume("today.safetensors").step
        8
    """
    tensors, record = _read(path)
    method = rebuilt_filter(record["method"]) if method is None else method
    system = rebuilt_system(record["system"]) if system is None else system
    for name, found in (("method", method), ("system", system)):
        if found is None or _hashes(method, system)[name] != record["sha256"].get(name):
            raise ValueError(
                f"{path} is of a run with the {name} {record[name]['name']}, "
                f"{'which it does not hold' if found is None else 'whose settings differ'}: give "
                f"{name}= as it was at the start."
            )
    assert method is not None
    carried = {
        n.removeprefix("carried."): t for n, t in tensors.items() if n.startswith("carried.")
    }
    start = Cycle(
        record["step"],
        tensors["ensemble"],
        tensors.get("weights"),
        carried if record["carries"] else None,
    )
    check_start(start, len(start.ensemble), Problem(system, (), start.step))
    streams = [(int(text[:16], 16), int(text[16:], 16)) for text in record["streams"]]
    return Online(method, system, start, streams, record["cycles"], record["observed"])


def _hashes(method: Any, system: Any) -> dict[str, str]:
    """Return hashes of all that decides the numbers of a run from a step on."""
    found: dict[str, str] = identity(method=method, system=unmapped(system))["sha256"]
    return found


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and record of a run that was saved.

    Raises:
        ValueError: If the file holds something else.
    """
    tensors, header = read_tensors(path, "go on from an earlier one, or begin the run again")
    if header.get("kind") != KIND or "ensemble" not in tensors:
        raise ValueError(
            f"{path} holds no run of a filter, but {header.get('kind', 'something else')!r}: give "
            "a file that `save` of such a run wrote."
        )
    record = parsed(str(header.get("run")), f"The run of {path}")
    check_fields(record, RECORD, f"The run of {path}")
    for name in ("method", "system"):
        check_fields(record[name], NAMED, f"The {name} of {path}")
    if [re.fullmatch("[0-9a-f]{32}", text) is None for text in record["streams"]] != [False] * 2:
        raise ValueError(f"{path} has streams = {record['streams']}: get the file anew.")
    return tensors, record
