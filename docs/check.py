"""Check a built site: it loads nothing from elsewhere, and every picture has words.

Run as ``python docs/check.py site``; ``make docs`` does so.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path

# Elements that load what they name, and how they name it; a link that is clicked loads nothing.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
# A link of these kinds tells search engines of another page.
TOLD = {"canonical", "search", "author", "next", "prev", "index"}


class Page(HTMLParser):
    """What is wrong with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Read one element."""
        given = dict(attrs)
        named = given.get(LOADED.get(tag, "")) or ""
        if named.startswith(("http:", "https:", "//")) and given.get("rel") not in TOLD:
            self.found.append(f"<{tag}> loads {named}")
        if tag == "img" and "alt" not in given:
            self.found.append(f"{named} has no alternative text")


def main(site: Path) -> int:
    """Print what is wrong, and return how much that is."""
    wrong = 0
    for path in sorted(site.rglob("*.html")):
        if "_static" in path.relative_to(site).parts:
            continue
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        for line in page.found:
            print(f"{path.relative_to(site)}: {line}")
        wrong += len(page.found)
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(Path(sys.argv[1]))))
