"""Standard streams: closed ones, and encodings that lack characters of the output."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata

__all__ = ["encodable", "flushed", "opened", "silenced"]

# What stands for a character that an encoding lacks, where taking off its accents does not help.
ASCII = {
    "±": "+/-", "–": "-", "—": "-", "−": "-", "…": "...", "·": ".", "×": "x", "≥": ">=", "≤": "<=",
    "°": "deg", "μ": "mu", "χ": "chi", "σ": "sigma", "α": "alpha", "β": "beta", "ε": "eps",
    "→": "->", "←": "<-", "•": "*", "█": "#", "━": "-", "─": "-", "│": "|", "“": '"', "”": '"',
    "‘": "'", "’": "'", "⟨": "<", "⟩": ">", "∈": "in", "√": "sqrt", "∇": "grad", "λ": "lambda",
}  # fmt: skip
HANDLER = "scorda-ascii"


def opened() -> None:
    """Give closed standard streams the null device, before a file of data takes their number."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def encodable() -> None:
    """Write ASCII for characters that the encoding of a stream lacks."""
    codecs.register_error(HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)


def flushed() -> None:
    """Write what is still in memory.

    Raises:
        OSError: If standard output takes no more; BrokenPipeError if its reader is gone.
    """
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def silenced() -> None:
    """Drop what standard output has not taken: the interpreter would complain of it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        # A stream without a file, as the tests have.
        pass
    finally:
        os.close(null)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_plain, text)), error.end


def _plain(letter: str) -> str:
    if letter in ASCII:
        return ASCII[letter]
    bare = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return bare or "?"
