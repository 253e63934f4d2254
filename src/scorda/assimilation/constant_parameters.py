r"""Values of constant parameters that a particle filter tries, weighted against their prior.

They are drawn from a mixture that is fixed before the first sweep,

.. math:: q(\theta) = \tfrac12 p(\theta) + \tfrac12 N(z; m, C) \, |dz / d\theta|,

with the prior p and, in the coordinates z without bounds, mean and covariance of the trajectories
that are to be improved. So values are tried where those trajectories are, and the weight
:math:`p / q \le 2` is bounded wherever they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from scorda.core import rng
from scorda.core.gaussian import gaussian_log_density
from scorda.core.shapes import Bool, Float, Tensor
from scorda.systems.mapped import unmapped
from scorda.systems.parameters import WithParameters

__all__ = ["ConstantParameters", "having_constants", "with_constants"]


def having_constants(system: Any) -> WithParameters | None:
    """Return the system, without its workers, if it has constant parameters; else None.

    Raises:
        ValueError: If entries of its state are constant that are none of its parameters.
    """
    fixed = getattr(system, "unchanging", None)
    if fixed is None or not fixed.any():
        return None
    system = unmapped(system)
    if not isinstance(system, WithParameters):
        raise ValueError(
            "ConditionalSMC needs the priors of the entries of the state that are constant: make "
            "them parameters (WithParameters), or leave `polish` out."
        )
    return system


def with_constants(
    paths: Float[Tensor, "ensemble time *state"], system: Any
) -> Float[Tensor, "ensemble time *state"]:
    """Return trajectories whose constant parameters do not change: the medians over time.

    A trained prior has them as channels that change a little.
    """
    known = having_constants(system)
    if known is None:
        return paths
    fixed = known.unchanging.to(paths.device)
    return torch.where(fixed, paths.median(1, keepdim=True).values, paths)


@dataclass(frozen=True)
class ConstantParameters:
    """The constant parameters of a system, with the law q that values are drawn from.

    Arguments:
        system: The system.
        names: Names of the parameters that are constant.
        mean: m, in the coordinates without bounds.
        cov: C; None where the trajectories tell none, and q is the prior.
    """

    system: WithParameters
    names: tuple[str, ...]
    mean: Float[Tensor, "parameters"]
    cov: Float[Tensor, "parameters parameters"] | None

    @classmethod
    def of(
        cls, system: Any, paths: Float[Tensor, "ensemble time *state"]
    ) -> ConstantParameters | None:
        """Return those of a system with the law that belongs to trajectories; None: it has none.

        Raises:
            ValueError: If entries of its state are constant that are none of its parameters.
        """
        system = having_constants(system)
        if system is None:
            return None
        constant = system.unchanging[system.system.space.size :].tolist()
        names = tuple(name for name, one in zip(system.laws, constant, strict=True) if one)
        z = _coordinates(system, names, paths[:, 0].cpu())
        cov = torch.atleast_2d(z.mT.cov()) if len(z) > len(names) else None
        if cov is not None and torch.linalg.cholesky_ex(cov).info.item() != 0:
            cov = None
        return cls(system, names, z.mean(0), cov)

    def started(
        self, held: Float[Tensor, "ensemble size"], tried: int, each: int, generator: rng.Seed
    ) -> Float[Tensor, "filters each size"]:
        """Draw first states of filters, as many for each trajectory as values are `tried`.

        All `each` particles of a filter have its values of the constant parameters. The first
        filter has those of the trajectory, of which it has the first state as first particle.
        """
        tries, states, *own = rng.spawn(generator, 2 + len(self.system.laws))
        count = len(held) * tried
        values = {
            name: law.sample(count * each, source, like=self.mean)
            for (name, law), source in zip(self.system.laws.items(), own, strict=True)
        }
        near, z = self._near(count, tries)
        now = self.system.values_of(held.cpu())
        for name, coordinate in zip(self.names, z.unbind(1), strict=True):
            transform = self.system.laws[name].transform
            there = coordinate if transform is None else transform.inverse(coordinate)
            value = torch.where(near, there, values[name][:count])
            value[::tried] = now[name].to(value)
            values[name] = value.repeat_interleave(each)
        # In the precision in which systems draw their states.
        default = torch.get_default_dtype()
        given = {name: value.to(default) for name, value in values.items()}
        x = self.system.prior_given(given, states)
        self.system.space.check_bounds(x, "the draws of the system")
        x = self.system.space.within(x).to(held).view(count, each, -1)
        x[::tried, 0] = held
        return torch.where(self.system.unchanging.to(x.device), x[:, :1], x)

    def _near(
        self, count: int, generator: rng.Seed
    ) -> tuple[Bool[Tensor, "count"], Float[Tensor, "count parameters"]]:
        """Draw which values are of the Gaussian law, and values of it in the coordinates."""
        which, place = rng.spawn(generator, 2)
        if self.cov is None:
            return torch.zeros(count, dtype=torch.bool), self.mean.expand(count, -1)
        white = rng.normal(count, (len(self.names),), place, like=self.mean)
        z = self.mean + white @ torch.linalg.cholesky(self.cov).mT
        return rng.uniform(count, (), which, like=self.mean) < 0.5, z

    def log_ratio(self, x: Float[Tensor, "ensemble size"]) -> Float[Tensor, "ensemble"]:
        """Return the log of p / q at the values of states."""
        own = x.cpu()
        z = _coordinates(self.system, self.names, own)
        if self.cov is None:
            return z.new_zeros(len(z)).to(x.device)
        values, prior = self.system.values_of(own.double()), z.new_zeros(len(z))
        for name in self.names:
            law = self.system.laws[name]
            prior = prior + law.log_density(values[name])
            if law.transform is not None:
                # The density of z.
                prior = prior - law.transform.log_slope(values[name])
        near = gaussian_log_density(z, self.mean, self.cov)
        return (math.log(2) + prior - torch.logaddexp(prior, near)).to(x.device)


def _coordinates(
    system: WithParameters, names: tuple[str, ...], x: Float[Tensor, "ensemble size"]
) -> Float[Tensor, "ensemble parameters"]:
    """Return parameters of states in their coordinates without bounds, in double precision."""
    values, columns = system.values_of(x.double()), []
    for name in names:
        transform = system.laws[name].transform
        columns.append(values[name] if transform is None else transform.forward(values[name]))
    return torch.stack(columns, 1)
