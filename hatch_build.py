"""The page of the package: links and pictures of the README lead to the repository.

Its address is known where a release is published: GitHub tells its workflows by two variables.
Elsewhere the README stays as it is, and the package has no addresses.
"""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link of Markdown to a file of the repository, and whether it is a picture.
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)]*)\)")


def absolute(text: str, home: str) -> str:
    """Return Markdown whose links to files lead to the repository at an address."""

    def lead(found: re.Match[str]) -> str:
        picture, words, path = found.groups()
        return f"{picture}[{words}]({home}/{'raw' if picture else 'blob'}/main/{path})"

    return LINK.sub(lead, text)


def addresses(server: str, repository: str) -> dict[str, str]:
    """Return what the page of the package links to."""
    home, (owner, name) = f"{server}/{repository}", repository.split("/")
    return {
        "Homepage": home,
        "Documentation": f"https://{owner.lower()}.github.io/{name}/",
        "Changelog": f"{home}/blob/main/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }


class Page(MetadataHookInterface):
    """Fills in what depends on where the repository is."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict) -> None:
        """Add the description and, where it is known, the addresses."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        server, repository = (
            os.environ.get(f"GITHUB_{n}", "") for n in ("SERVER_URL", "REPOSITORY")
        )
        metadata["urls"] = {}
        if server and repository:
            metadata["urls"] = addresses(server, repository)
            text = absolute(text, metadata["urls"]["Homepage"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
