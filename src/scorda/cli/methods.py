"""``scorda methods``: what each method uses and needs."""

from __future__ import annotations

__all__ = ["methods"]

# What a method may need, in the words of a table.
WORDS = {
    "simulator": "simulator",
    "linear_system": "linear system",
    "transition_density": "density of model error",
    "density": "density of observation error",
    "independent_errors": "independent errors",
    "positions": "positions",
    "linear_operator": "linear operator",
    "differentiable_operator": "gradient of operator",
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
    known = catalogue.methods()
    needs = [need for need in WORDS if any(need in kind.needs for kind in known.values())]
    rows: list[list[str] | None] = []
    for smoother in (False, True):
        if rows:
            rows.append(None)
        for shell, kind in known.items():
            if kind.smoother == smoother:
                marks = ["needs" if need in kind.needs else "–" for need in needs]
                trained = "needs" if "prior" in catalogue.options_of(kind) else "–"
                uses = "all data" if smoother else "past data only"
                rows.append([shell, uses, *marks, trained, getattr(kind, "exact", "–")])
    head = ["method", "uses", *(WORDS[need] for need in needs), "trained prior", "exact"]
    table(None, head, rows, left=2)
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
