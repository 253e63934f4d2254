"""``scorda methods``: what each method uses and needs."""

from __future__ import annotations

__all__ = ["methods"]

# What a method may need, in the words of a table.
WORDS = {
    "simulator": "simulator",
    "linear_system": "linear system",
    "differentiable_system": "gradient of model",
    "transition_density": "density of model error",
    "density": "density of observation error",
    "independent_errors": "independent errors",
    "positions": "positions of observations",
    "linear_operator": "linear operator",
    "differentiable_operator": "gradient of operator",
}
# When the method is exact; N is the number of members.
EXACT = {
    "ClosedFormFilter": "any problem, N → ∞, bandwidth → 0",
    "EnKF": "linear-Gaussian, N → ∞",
    "ETKF": "linear-Gaussian, N → ∞",
    "LETKF": "linear-Gaussian, N and radius → ∞",
    "EnKS": "linear-Gaussian, N → ∞",
    "GaussianMixtureFilter": "linear-Gaussian, N → ∞ (any problem: bandwidth → 0)",
    "KalmanFilter": "linear-Gaussian",
    "KalmanSmoother": "linear-Gaussian",
    "ParticleFilter": "any problem, N → ∞",
    "ParticleSmoother": "any problem, particles → ∞",
    "FourDVar": "linear-Gaussian",
    "MASF": "linear-Gaussian, N → ∞ (bridge)",
    "SDA": "Gaussian prior with MMPS, steps → ∞",
}


def methods(name: str | None = None) -> None:
    """List the methods: which data they use and what they need; or the settings of one.

    Arguments:
        name: A method, to see its description and settings.
    """
    from scorda.cli import catalogue
    from scorda.cli.console import console, table

    if name is not None:
        _describe(name)
        return
    rows: list[list[str] | None] = []
    for smoother, uses in ((False, "past data only"), (True, "all data")):
        if rows:
            rows.append(None)
        for shell, kind in catalogue.methods().items():
            if kind.smoother == smoother:
                needs = [WORDS.get(need, need) for need in kind.needs]
                needs += ["trained prior"] if catalogue.needs_trained_prior(kind) else []
                members = str(kind.least_members)
                exact = EXACT.get(kind.__name__, "no")
                rows.append([shell, uses, ", ".join(needs), exact, members])
    table(None, ["method", "uses", "needs", "exact for", "members ≥"], rows, left=4)
    console().print("`scorda methods NAME` shows the settings of a method.")


def _describe(name: str) -> None:
    import inspect
    from dataclasses import MISSING

    from scorda.cli import catalogue
    from scorda.cli.console import console

    kind = catalogue.find_method(name)
    out = console()
    out.print(inspect.cleandoc(kind.__doc__ or ""), markup=False)
    out.print("\nSettings on the command line:")
    for key, field in catalogue.options_of(kind).items():
        default = "required" if field.default is MISSING else f"default {field.default}"
        if field.default is MISSING and field.default_factory is not MISSING:
            default = f"default {field.default_factory()!r}"
        out.print(f"  --{key.replace('_', '-')}  ({default})", markup=False)
