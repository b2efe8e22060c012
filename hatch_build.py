"""The package's long description: the README with links that work outside the repository.

A package index shows the README without the files that it links to. With a `Source` among `[project.urls]`, relative
links and pictures lead to the release's tag there; without one, links become plain text and pictures are left out.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_TAG = re.compile(r"<img\b[^>]*\bsrc=\"(?P<target>[^\"]+)\"[^>]*>")


class ReadmeHook(MetadataHookInterface):
    """Sets `readme`, which pyproject.toml therefore names as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        readme = describe(text, source, tag=f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def describe(readme: str, source: str | None, *, tag: str) -> str:
    """The README with every relative link and picture made absolute, or without them if there is no `source`."""

    def link(found: re.Match[str]) -> str:
        target, text = found["target"], found["text"]
        if "://" in target or target.startswith("#"):
            return found[0]
        if source is None:
            return "" if found["picture"] else text
        return f"{found['picture']}[{text}]({_address(source, tag, target, picture=bool(found['picture']))})"

    def tagged(found: re.Match[str]) -> str:
        target = found["target"]
        if "://" in target:
            return found[0]
        return "" if source is None else found[0].replace(target, _address(source, tag, target, picture=True))

    parts = _FENCED.split(readme)  # fenced code is at the odd places, and is kept: it has no links
    return "".join(part if place % 2 else _TAG.sub(tagged, _LINK.sub(link, part)) for place, part in enumerate(parts))


def _address(source: str, tag: str, target: str, *, picture: bool) -> str:
    return f"{source.rstrip('/')}/{'raw' if picture else 'blob'}/{tag}/{target}"
