"""Methods and their parts by name, and their settings as the command line reads them."""

from __future__ import annotations

import ast
import inspect
import re
import types
from abc import ABC
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import docstring_parser
from cyclopts import Parameter

from scorda.cli.readable import readable
from scorda.cli.settings import UserError, check_keys, letters
from scorda.core.plugins import announced, declared, imported, is_code

if TYPE_CHECKING:
    from scorda.assimilation.base import Assimilator

__all__ = [
    "Listed",
    "announced",
    "default_of",
    "find_method",
    "help_of",
    "in_files",
    "listed",
    "methods",
    "needs_trained_prior",
    "options_of",
    "parts_of",
    "settings_class",
    "shell_name",
]

NOTHING = ("none", "null")


@dataclass(frozen=True)
class Listed:
    """A method as its file declares it."""

    module: str
    name: str
    sentence: str
    smoother: bool

    def load(self) -> type[Assimilator]:
        """Import the class."""
        return imported(f"{self.module}:{self.name}")


def listed() -> dict[str, Listed]:
    """Return every method of Scorda by its name on the command line, without importing any.

    Each public class of `scorda.methods` that declares ``exact`` is one.
    """
    found: dict[str, Listed] = {}
    for module, node, values in declared("scorda.methods", "exact"):
        sentence = readable(ast.get_docstring(node) or "").split("\n\n")[0]
        smoother = values.get("smoother") == "True"
        found[shell_name(node.name)] = Listed(module, node.name, sentence, smoother)
    return dict(sorted(found.items()))


def methods() -> dict[str, type[Assimilator]]:
    """Import every method of Scorda, and every one that another package announces."""
    own = {name: method.load() for name, method in listed().items()}
    return own | {name: entry.load() for name, entry in announced("scorda.methods").items()}


def find_method(name: str) -> type[Assimilator]:
    """Return the method of that name (case and hyphens do not matter), or ``module:Class``.

    Raises:
        UserError: If there is none; the sentence names the nearest.
    """
    from scorda.assimilation.base import Assimilator

    if is_code(name):
        return _checked(imported(name), Assimilator, name)
    known = listed() | announced("scorda.methods")
    for candidate, method in known.items():
        if candidate.replace("-", "") == letters(name):
            return _checked(method.load(), Assimilator, name)
    check_keys([name.lower()], known, "method")
    raise AssertionError


def options_of(kind: type) -> dict[str, Field[Any]]:
    """Return the settings of a method, or of one of its parts, that text can give."""
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind)
    return {
        f.name: f
        for f in fields(kind)
        if f.init
        and not f.name.startswith("_")
        and not any(kind in str(hints[f.name]) for kind in ("Mapping", "Tensor"))
    }


def needs_trained_prior(kind: type) -> bool:
    """Return whether the setting `prior` is a trained prior, not one of the ensemble."""
    return _is_trained(get_type_hints(kind).get("prior"))


def parts_of(hint: Any) -> dict[str, type]:
    """Return what a setting of this type may be made of, by name: the classes that it admits.

    Classes of other packages are among them if they are announced as ``scorda.priors``; those that
    are kept in files are not: a file names them.
    """
    if _is_trained(hint):
        return {}
    for entry in announced("scorda.priors").values():
        entry.load()
    kinds = [kind for kind in _kinds(hint) if not hasattr(kind, "load") and _from_text(kind)]
    return {shell_name(kind): kind for kind in kinds}


def _from_text(kind: type) -> bool:
    """Return whether text can give all settings of a class that have no default."""
    known = options_of(kind)
    return all(
        f.name in known or not f.init or default_of(f) is not MISSING
        for f in (fields(kind) if is_dataclass(kind) else ())
    )


def settings_class(
    kind: type,
    chosen: Mapping[str, str],
    taken: Collection[str] = (),
    where: str = "",
    like: Any = None,
    first: float | None = None,
) -> tuple[type, Callable[[Any], Any]]:
    """Return a dataclass of the settings of a class, for cyclopts, and what makes the class of it.

    A setting that is made of settings has two fields: its name, and those settings.

    Arguments:
        kind: A method, or a part of one.
        chosen: Flags without dashes and their values; they name the class of each part.
        taken: Names that mean something else on the command line; ``method.`` goes before them.
        where: Flag of the part, such as ``prior``; empty for the method.
        like: An instance whose settings are the defaults, instead of those of the class.
        first: Default of the first setting, instead.
    """
    hints, words = get_type_hints(kind), help_of(kind)
    rows: list[tuple[str, Any, Any]] = []
    makers: dict[str, Callable[[Any], Any]] = {}
    for name, field in options_of(kind).items():
        flag, about = name.replace("_", "-"), words.get(name, "")
        shown = f"method.{flag}" if name in taken else flag
        default = default_of(field) if like is None else getattr(like, name)
        default, first = (default, None) if first is None else (first, None)
        parts = parts_of(hints[name])
        if not parts:
            hint, how, makers[name] = _plain(name, hints[name], default)
            how = Parameter.combine(how, Parameter(name=shown, help=about))
            rows.append((name, Annotated[hint, how], None if default is MISSING else default))
            continue
        file = ", or a .safetensors file" if in_files(hints[name]) else ""
        number = "A number, or one" if float in get_args(hints[name]) else "One"
        about = f"{about} {number} of {', '.join(parts)}{file}.".strip()
        usual = None if default in (None, MISSING) else _shown(default)
        rows.append((name, Annotated[str | None, Parameter(name=shown, help=about)], usual))
        at = f"{where}.{flag}".removeprefix(".")
        inner, makers[name] = _part(name, hints[name], parts, chosen, at, default)
        if inner is not None:
            rows.append((f"{name}_", Annotated[inner | None, Parameter(name=shown)], None))
    made = make_dataclass(kind.__name__, rows, kw_only=True, namespace={"__module__": __name__})

    def make(given: Any) -> Any:
        values = {name: maker(given or made()) for name, maker in makers.items()}
        missing = [key.replace("_", "-") for key, value in values.items() if value is MISSING]
        if missing:
            flags = " and ".join(f"--{where}.{key}".replace("--.", "--") for key in missing)
            raise UserError(f"{shell_name(kind)} needs {flags}: see `scorda methods`.")
        return kind(**values)

    return made, make


def _plain(name: str, hint: Any, default: Any) -> tuple[Any, Parameter, Callable[[Any], Any]]:
    """Return type, form and maker of a setting that is a number, a text or several of them."""
    if _is_trained(hint) or in_files(hint):
        from scorda.priors.trajectory import load

        read: Any = load if _is_trained(hint) else in_files(hint)[0].load  # type: ignore[attr-defined]

        def loaded(given: Any) -> Any:
            file = getattr(given, name)
            return default if file is None else read(file)

        return str | None, Parameter(), loaded
    tuples = [kind for kind in get_args(hint) if get_origin(kind) is tuple]
    if tuples:
        # One value or several: cyclopts takes any number, and one alone is no tuple.
        hint = tuple[get_args(tuples[0])[0], ...] | None  # type: ignore[misc]

        def several(given: Any) -> Any:
            values = getattr(given, name)
            return values[0] if isinstance(values, tuple) and len(values) == 1 else values

        return hint, Parameter(consume_multiple=True), several

    def value(given: Any) -> Any:
        found = getattr(given, name)
        return MISSING if found is None and default is MISSING else found

    # A flag that is on by default is switched off by --no-NAME.
    how = Parameter(negative_bool="no-") if default is True else Parameter()
    return hint if default is not MISSING else hint | None, how, value


def _part(
    name: str,
    hint: Any,
    parts: Mapping[str, type],
    chosen: Mapping[str, str],
    at: str,
    default: Any,
) -> tuple[type | None, Callable[[Any], Any]]:
    """Return the settings of the part that is chosen, if any, and the maker of that part."""
    word, like, kind, first = chosen.get(at), None, None, None
    if word is None:
        like = None if default in (None, MISSING) or isinstance(default, float) else default
        only = _usual(hint, parts)
        kind = only if like is None else type(like)
    elif word.lower() in NOTHING and types.NoneType in get_args(hint):
        return None, lambda given: None
    elif (number := _number(word)) is not None and float in get_args(hint):
        return None, lambda given: number
    elif number is not None and (usual := _usual(hint, parts)) is not None:
        kind, first = usual, _of_first(usual, word, number, at)
    elif word.endswith(".safetensors") and (kept := in_files(hint)):
        return None, lambda given: kept[0].load(word)  # type: ignore[attr-defined]
    else:
        named, _, value = word.partition(":")
        first = _number(value)
        known = letters(named) in map(letters, parts)
        if known and first is None and value:
            raise UserError(f"Got --{at} {word}: give a number behind {named}:, not {value!r}.")
        kind = _choose(word if first is None else named, hint, parts, at)
        if first is not None and not options_of(kind):
            raise UserError(f"Got --{at} {word}: {named} takes no number.")
        first = None if first is None else _of_first(kind, word, first, at)
    if kind is None:
        return None, lambda given: default
    inner, make = settings_class(kind, chosen, where=at, like=like, first=first)

    def part(given: Any) -> Any:
        settings = getattr(given, f"{name}_")
        return default if settings is None and word is None else make(settings)

    return inner, part


def _of_first(kind: type, word: str, number: float, at: str) -> float:
    """Return a number that is the first setting of a part: a whole one where that is an int."""
    name = next(iter(options_of(kind)))
    if get_type_hints(kind)[name] is not int:
        return number
    if not number.is_integer():
        raise UserError(f"Got --{at} {word}: give a whole number of {name.replace('_', ' ')}.")
    return int(number)


def _usual(hint: Any, parts: Mapping[str, type]) -> type | None:
    """Return the part that a number, or settings without a name, are of: one that is named."""
    named = [kind for kind in parts.values() if kind in (hint, *get_args(hint))]
    return named[0] if len(named) == 1 else None


def _number(word: str) -> float | None:
    """Return the number that a word is, or None."""
    try:
        return float(word)
    except ValueError:
        return None


def _shown(default: Any) -> str:
    """Return a default as the command line takes it."""
    return str(default) if isinstance(default, float) else shell_name(type(default))


def _choose(word: str, hint: Any, parts: Mapping[str, type], at: str) -> type:
    """Return the class of that name, or ``module:Class``."""
    if is_code(word):
        bases = [kind for kind in (hint, *get_args(hint)) if inspect.isclass(kind)]
        return _checked(imported(word), tuple(bases), word)
    for candidate, kind in parts.items():
        if letters(candidate) == letters(word):
            return kind
    check_keys([word], parts, f"value of --{at}")
    raise AssertionError


def help_of(kind: type) -> dict[str, str]:
    """Return the words of the docstrings about each setting, of bases too."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for entry in docstring_parser.parse(base.__doc__ or "").params:
            found[entry.arg_name] = " ".join(readable(entry.description or "").split())
    return found


def shell_name(kind: type | str) -> str:
    """Return the name on the command line: ParticleFilter is particle-filter, EnKF is enkf."""
    name = kind if isinstance(kind, str) else kind.__name__
    words = re.findall(r"[A-Z][a-z]{2,}|EnKF$|[A-Z]{3,}$", name)
    return "-".join(words).lower() if "".join(words) == name else name.lower()


def default_of(field: Field[Any]) -> Any:
    """Return the default of a setting, or `dataclasses.MISSING`."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _checked(kind: Any, base: type | tuple[type, ...], name: str) -> type:
    if inspect.isclass(kind) and issubclass(kind, base):
        return kind
    wanted = " or ".join(b.__name__ for b in (base if isinstance(base, tuple) else (base,)))
    raise UserError(f"{name} is no class derived from {wanted}: name one that is.")


def _is_trained(hint: Any) -> bool:
    from scorda.priors.trajectory import Prior

    return inspect.isclass(hint) and issubclass(hint, Prior)


def _kinds(hint: Any) -> list[type]:
    """Return the concrete classes that a setting of this type may be made of."""
    return [
        kind
        for base in (hint, *get_args(hint))
        if inspect.isclass(base) and base.__module__ != "builtins" and base is not types.NoneType
        for kind in _concrete(base)
    ]


def in_files(hint: Any) -> list[type]:
    """Return those of them that a file names."""
    return [kind for kind in _kinds(hint) if hasattr(kind, "load")]


def _concrete(kind: type) -> list[type]:
    """Return a class and all below it, as far as they can be made and are public."""
    children: list[type] = kind.__subclasses__()
    below = [sub for child in children for sub in _concrete(child)]
    hidden = ABC in kind.__bases__ or inspect.isabstract(kind) or kind.__name__.startswith("_")
    return below if hidden else [kind, *below]
