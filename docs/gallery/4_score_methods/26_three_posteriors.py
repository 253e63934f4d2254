"""
Same data, different posteriors: the climate, the past, or all of a run
=======================================================================

Papers say "the posterior" of different things. A prior of the climate, a filter and a smoother
agree or not, by what each is told.
"""

# %%
# A level that is drawn to 0, in a climate from which SDA's prior comes. This year it is drawn to
# 2, which only the model knows that the filter and the smoother run.
import matplotlib.pyplot as plt

import scorda as sc

climate = sc.systems.LinearGaussian([[0.9]], [[0.19]], [0.0], [[1.0]])
year = sc.systems.LinearGaussian(
    [[0.9, 0.1], [0.0, 1.0]], [[0.19, 0.0], [0.0, 0.0]], [0.0, 2.0], [[1.0, 0.0], [0.0, 0.0]]
)
model = sc.ObservationModel(sc.Select([0]), std=0.4)
truth, problem = sc.twin_experiment(year, model, steps=60, every=12, generator=7)
prior = sc.priors.GaussianTrajectory.of(climate, 60)
runs = {
    "climate (SDA)": sc.SDA(prior).assimilate(
        sc.Problem(prior, problem.instruments, 60), members=200, generator=1
    ),
    "the past (Kalman filter)": sc.KalmanFilter().assimilate(problem, members=200, generator=1),
    "all data (Kalman smoother)": sc.KalmanSmoother().assimilate(problem, 200, generator=1),
}

# %%
# Between observations SDA returns to the old climate. The filter has jumps where data come; the
# smoother has none. The three have different means and spreads, and a comparison of methods that
# target different ones says nothing: :doc:`/explanation/three_posteriors`.

# sphinx_gallery_alt = "Three panels with mean and band of the level over time. The climate's"
# sphinx_gallery_alt = "returns to zero between observations; the filter's goes to two and jumps"
# sphinx_gallery_alt = "at observations; the smoother's goes to two without jumps."
with sc.report.style():
    figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.8), sharey=True)
    for panel, (name, run) in zip(panels, runs.items(), strict=True):
        low, high = run.quantile(0.05)[:, 0], run.quantile(0.95)[:, 0]
        panel.fill_between(range(61), low, high, color="#56B4E9", alpha=0.5)
        panel.plot(run.mean[:, 0], color="#0072B2")
        panel.plot(truth[:, 0], "--", color="black", linewidth=1)
        seen = problem.instruments[0]
        panel.plot(list(seen.steps), seen.values[:, 0], "o", color="#D55E00", markersize=4)
        panel.set(title=name, xlabel="step")
    panels[0].set_ylabel("level")
