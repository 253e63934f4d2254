"""
Gaps, and times without rhythm
==============================

Observations need no fixed interval, and any value may be missing. Between them an ensemble fans
out, which is what is known then.
"""

# %%
# x and z of Lorenz-63 are seen at random steps, none of them between 120 and 200, and each row may
# lack a value: NaN is a value that is missing.
import torch

import scorda as sc

system = sc.systems.Lorenz63()
draw = torch.Generator().manual_seed(0)
both = sc.ObservationModel(sc.Select([0, 2]), std=0.5)
truth, _ = sc.twin_experiment(system, both, steps=240, every=1, generator=2)
steps = sorted({int(k) for k in torch.randint(1, 240, (45,), generator=draw) if not 120 < k < 200})
values = both.sample(truth[steps], 5)
values[::3, 0], values[1::3, 1] = torch.nan, torch.nan
observations = sc.Observations(both, steps, values)
observations

# %%
run = sc.ETKF(1.02).assimilate(sc.Problem(system, observations, 240), members=40, generator=1)
# sphinx_gallery_alt = "Members of x, y and z over time with the truth and the observations:"
# sphinx_gallery_alt = "close together where observations are dense, ever farther apart in the"
# sphinx_gallery_alt = "gap between times 3 and 5, and together again after it."
figure = run.plot(truth=truth, observations=observations)
