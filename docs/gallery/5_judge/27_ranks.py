"""
Where does the truth lie among the members?
===========================================

For an honest ensemble the truth is anywhere among the sorted members equally often. The shape of
the histogram tells what is wrong.
"""

# %%
# One filter with three inflations: too little, a good one, and too much.
import scorda as sc

system = sc.systems.Lorenz96(40)
model = sc.ObservationModel(sc.Select(range(0, 40, 2)), std=1.0)
truth, problem = sc.twin_experiment(system, model, steps=300, every=1, generator=0)
taper = sc.GaspariCohn(4)
runs = {
    f"inflation {factor}": sc.LETKF(factor, localization=taper).assimilate(problem, 8, generator=1)
    for factor in (1.0, 1.05, 1.2)
}
for name, run in runs.items():
    states = run.states[:, 100:]
    print(
        f"{name:14} RMSE {float(sc.metrics.rmse(states, truth[100:])):.2f}"
        f"  spread / skill {float(sc.metrics.spread_skill(states, truth[100:])):.2f}"
        f"  in the central 90 %: {100 * float(sc.metrics.coverage(states, truth[100:])):.0f} %"
    )

# %%
# A U: too sure. A hump: too wide. Flat within the grey band: honest.
# :doc:`/explanation/calibration`.

# sphinx_gallery_alt = "Three rank histograms: a U without inflation, nearly flat with 1.05, a"
# sphinx_gallery_alt = "hump with 1.2."
figure = sc.report.rank_histograms(runs, truth, first=100)
