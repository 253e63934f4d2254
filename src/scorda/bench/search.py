"""Settings to try that follow from those before, by Optuna where it is installed."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable
from typing import Any

from scorda.bench.entry import in_words
from scorda.bench.own import Grid

__all__ = ["by_optuna"]

# Significant digits of a number that is tried, so that what is chosen can be written down.
DIGITS = 4


def by_optuna(
    values: Grid, trials: int, seed: int, mean: Callable[[dict[str, Any]], float]
) -> tuple[dict[str, Any], ...]:
    """Return the settings that were tried, each once, by the tree-structured Parzen estimator.

    Two numbers are the ends of a range, of whole numbers where both are; other values are choices.

    Source: Akiba, Sano, Yanase, Ohta & Koyama (2019), KDD '19, 2623-2631 (Optuna); Bergstra,
    Bardenet, Bengio & Kégl (2011), NIPS 24 (the estimator).

    Arguments:
        values: Values by name of the setting.
        trials: Number of trials.
        seed: Seed of the choice.
        mean: Function of the settings that is minimised; not finite: they diverged.

    Raises:
        ImportError: If Optuna is not installed.
        ValueError: If the number of trials is below 1.
    """
    if trials < 1:
        raise ValueError(f"Got trials = {trials}: give at least 1.")
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ImportError(
            'search = "optuna" needs the package optuna, which is not there', name="optuna"
        ) from error
    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        found: dict[str, dict[str, Any]] = {}
        for _ in range(trials):
            trial = study.ask()
            settings = {name: _suggested(trial, name, v) for name, v in values.items()}
            found[in_words(settings)] = settings
            value = mean(settings)
            study.tell(trial, value if math.isfinite(value) else math.inf)
    finally:
        optuna.logging.set_verbosity(told)
    return tuple(found.values())


def _suggested(trial: Any, name: str, values: Iterable[Any]) -> Any:
    """Return a value that a trial suggests."""
    given = list(values)
    numbers = [v for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(given) != 2 or len(numbers) != 2:
        return given[trial.suggest_categorical(name, list(range(len(given))))]
    low, high = sorted(numbers)
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high)
    return float(min(max(float(f"{trial.suggest_float(name, low, high):.{DIGITS}g}"), low), high))
