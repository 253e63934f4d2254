"""Links of names: `EnKF`, `sc.EnKF` and the module that defines it lead to the page of the class.

What Sphinx finds by itself is left to it. A name alone is a link where it begins with a capital,
as the names of settings and arguments are in backquotes too; a function has its package or `()`.
"""

from typing import Any

from sphinx.util.nodes import make_refnode


def own_name(app: Any, env: Any, node: Any, shown: Any) -> Any:
    """Return a link to the one object that a name can mean, or None."""
    target = node["reftarget"].removeprefix("sc.")
    named = target[:1].isupper() or "." in target or "()" in target
    if node.get("refdomain") != "py" or not named:
        return None
    objects, path = env.get_domain("py").objects, target.removesuffix("()").split(".")
    # Of `scorda.methods.enkf.EnKF.example` the page has `scorda.EnKF.example`.
    whole = path[0] != "scorda"
    tails = [".".join(path[i:]) for i in range(1 if whole else len(path))]
    # A field that has no entry of its own is described by its class.
    for tail in [*tails, *(path[:1] if path[0][0].isupper() else [])]:
        found = {
            (entry.docname, entry.node_id)
            for name, entry in objects.items()
            if name.endswith(f".{tail}") and not entry.aliased
        }
        if len(found) == 1:
            ((page, place),) = found
            return make_refnode(app.builder, node["refdoc"], page, place, shown, target)
    return None


def setup(app: Any) -> dict[str, bool]:
    """Register it."""
    app.connect("missing-reference", own_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
