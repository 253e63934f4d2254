"""The example of docs/circular.md runs, and its directions are on one turn."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "circular.md"


@pytest.mark.slow
def test_the_example_of_the_page_runs(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    names = {}
    exec(compile(blocks[0], PAGE.name, "exec"), names)
    direction = names["analysis"].states[..., 0]
    assert (direction >= 0).all() and (direction < 360).all()
    gap = names["space"].shortest(names["analysis"].mean - names["truth"])
    # The table of the page has 10 degrees.
    assert gap[20:, 0].square().mean().sqrt() < 15
    assert "tensor" in capsys.readouterr().out
