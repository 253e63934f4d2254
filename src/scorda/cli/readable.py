"""Docstrings for a terminal: formulas in plain characters instead of LaTeX."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["readable"]

SYMBOLS = {
    "approx": "≈", "cdot": "·", "circ": "∘", "dots": "...", "exp": "exp", "ge": "≥",
    "in": "∈", "infty": "∞", "int": "∫", "langle": "⟨", "leftarrow": "←", "le": "≤", "lVert": "‖",
    "mapsto": "↦", "mid": "|", "nabla": "∇", "ne": "≠", "odot": "⊙", "partial": "∂", "pm": "±",
    "prod": "∏", "propto": "∝", "quad": "  ", "qquad": "  ", "rangle": "⟩", "rVert": "‖",
    "sim": "~", "sqrt": "√", "sum": "∑", "times": "×", "to": "→", "varepsilon": "ε",
    "varphi": "φ",
}  # fmt: skip
# Commands that change the look alone.
LOOKS = r"\\(?:left|right|[bB]ig[lr]?|mathrm|mathbf|mathcal|text|operatorname)(?![A-Za-z]) *"
# Marks over a letter, as the combining characters that follow it.
MARKS = {
    "bar": "\u0304",
    "overline": "\u0304",
    "hat": "\u0302",
    "tilde": "\u0303",
    "dot": "\u0307",
}
GROUP = r"\{([^{}]*)\}"


def readable(text: str) -> str:
    """Return a docstring with formulas such as ``x_t = (a)/(b) ∑_i ε_i``."""
    text = re.sub(r":math:`([^`]*)`", lambda found: _formula(found[1]), text)
    return re.sub(
        r"^( *)\.\. math::[ \n]*((?:.*\S.*\n?)+)",
        lambda found: f"{found[1]}    {_formula(found[2].rstrip())}\n",
        text,
        flags=re.MULTILINE,
    )


def _formula(latex: str) -> str:
    latex = re.sub(rf"{LOOKS}{GROUP}", r"\1", latex)
    text = re.sub(LOOKS, "", re.sub(r"\\[,;:! ]", " ", latex))
    text = text.replace("\\|", "‖").replace("\\\\", "")
    for name, mark in MARKS.items():
        text = re.sub(rf"\\{name}(?![a-z]) *(?:{GROUP}|(\\?[A-Za-z]))", rf"\1\2{mark}", text)
    text = re.sub(r"\\[td]?frac *(\d)(\w)", r"\1/\2", text)
    # From the innermost braces outwards.
    before = None
    while before != text:
        before = text
        text = re.sub(rf"\\[td]?frac *{GROUP} *{GROUP}", r"(\1)/(\2)", text)
        text = re.sub(rf"([_^]|\\(?!.?frac)[a-z]+ ?){GROUP}", _group, text)
    text = re.sub(r"\((\w)\)/\((\w)\)", r"\1/\2", text)
    text = re.sub(r"\\([A-Za-z]+)", _command, text)
    return text.replace("{", "").replace("}", "").replace("&", "")


def _group(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}" if len(found[2]) == 1 else f"{found[1]}({found[2]})"


def _command(found: re.Match[str]) -> str:
    name = found[1]
    if name in SYMBOLS:
        return SYMBOLS[name]
    size = "SMALL" if name[0].islower() else "CAPITAL"
    try:
        return unicodedata.lookup(f"GREEK {size} LETTER {name.lower().replace('lambda', 'lamda')}")
    except KeyError:
        return name
