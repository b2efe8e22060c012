"""The documentation: the site builds strictly and leads nowhere wrong, and its blocks run or say why not."""

import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import sync_playwright
from typer.main import get_command

from pages import DOCS, Block, Desk, blocks
from pneumoscope.cli.app import app
from pneumoscope.dataset import Dataset
from pneumoscope.phantom import FINDINGS, encode_jpeg, film
from samples import REPOSITORY

pytestmark = pytest.mark.slow
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *PAGES]
BLOCKS = [block for page in PAGES for block in blocks(page)]
RUNNING = [block for block in BLOCKS if block.kind in ("bash", "python") and block.reason is None]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` builds it: a warning of MkDocs ends the build."""
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return out


class Document(HTMLParser):
    """A page's anchors, its links, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        """Read a file of HTML."""
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect from one tag."""
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("link", "img", "script", "iframe", "source"):
            self.loaded += [given[name] for name in ("href", "src") if name in given]


def test_no_link_anchor_or_picture_of_the_site_is_dead(site: Path) -> None:
    documents = {path: Document(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(documents) == len(PAGES)
    dead = []
    for path, document in documents.items():
        for target in [*document.links, *document.loaded]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file() or (parts.fragment and unquote(parts.fragment) not in documents[file].anchors):
                dead.append(f"{path.relative_to(site)}: {target}")
    assert dead == []


def test_the_site_asks_no_other_host_for_anything(site: Path) -> None:
    """Scripts are not read, only their addresses; the browser test below sees what they request when they run."""
    for path in site.rglob("*.html"):
        assert [each for each in Document(path).loaded if urlsplit(each).netloc] == [], path
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", path.read_text(encoding="utf-8")), path


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; `apt-get install chromium` brings one")
def test_a_browser_shows_the_site_without_other_hosts(site: Path) -> None:
    requested = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: requested.append(request.url))
        for name in ("index.html", "concepts/architecture.html"):
            page.goto((site / name).as_uri(), wait_until="load")
            page.wait_for_timeout(300)
        pictures = page.eval_on_selector_all("article img", "all => all.map(each => each.naturalWidth)")
        browser.close()
    assert len(pictures) == 2
    assert all(pictures)
    assert [url for url in requested if not url.startswith(("file:", "data:", "blob:"))] == []


def slugs(text: str) -> set[str]:
    """The anchors that GitHub gives a Markdown text's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    plain = [unicodedata.normalize("NFKC", re.sub(r"[`*]", "", heading)).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", TEXTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_in_the_repository_lead_somewhere(document: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if "://" in target:
            continue
        if not file.exists() or (anchor and anchor not in slugs(file.read_text(encoding="utf-8"))):
            dead.append(target)
    assert dead == []


def test_every_page_is_in_a_section() -> None:
    sections = {path.parent.relative_to(DOCS).as_posix() for path in PAGES if path.name != "index.md"}
    assert sections == {"get-started", "how-to", "concepts", "reference"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_code_is_in_blocks_that_name_their_language(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [block.kind for block in blocks(page) if block.kind not in ("bash", "python", "toml", "json", "text")] == []
    assert len(blocks(page)) == len(re.findall(r"^```\w+", text, re.MULTILINE)), (
        "a block's opening line may have its language and a title, nothing else"
    )
    assert not re.search(r"^ {4}(?:pneumoscope|python|make|curl|pip|aws) ", text, re.MULTILINE)


def test_blocks_that_do_not_run_have_a_reason_that_holds() -> None:
    """A block must not be marked for convenience: reasons are few, and each names what is missing here."""
    reasons = {block.reason for block in BLOCKS if block.reason}
    needed = r"needs|takes|trains|downloads|installs|runs `make demo`|starts the service"
    assert all(re.search(needed, reason) for reason in reasons), reasons
    assert len(RUNNING) > 20


def commands() -> Iterator[tuple[str, str]]:
    """Every `pneumoscope` command that the README, the changelog and the pages show, in a block or in a sentence."""
    for document in TEXTS:
        name = document.relative_to(REPOSITORY).as_posix()
        for block in blocks(document):
            ours = [line for line in block.lines() if re.match(r"(?:\w+=\S+ )*pneumoscope ", line)]
            yield from ((name, line) for line in ours if block.kind == "bash")
        text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        yield from ((name, " ".join(found.split())) for found in re.findall(r"`(pneumoscope [a-z][^`]*)`", text))


def test_every_command_and_option_exists() -> None:
    """Also those of blocks that do not run."""
    root: Any = get_command(app)
    shown = list(commands())
    assert len(shown) > 80
    for page, line in shown:
        words = line[line.index("pneumoscope ") :].split()[1:]
        leaf: Any = root
        while words and words[0] in getattr(leaf, "commands", {}):
            leaf = leaf.commands[words.pop(0)]
        assert leaf is not root, f"{page}: {line}"
        known = {name for parameter in leaf.params for name in [*parameter.opts, *parameter.secondary_opts]}
        used = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
        assert not hasattr(leaf, "commands") or not used, f"{page}: {line}"
        assert used <= known, f"{page}: {line}: {used - known}"


def test_every_file_and_target_that_pages_name_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for document in TEXTS[:1] + PAGES:
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"\b(?:benchmarks|deploy|tests|scripts|src)/[\w./-]+\.\w+", text):
            assert (REPOSITORY / name).exists(), f"{document.name}: {name}"
        used = re.findall(r"^make ([a-z]+)|`make ([a-z]+)", text, re.MULTILINE)
        assert {one or other for one, other in used} <= targets, document.name


@pytest.fixture
def desk(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    command: Callable[..., SimpleNamespace],
    dataset: Dataset,
    tiny_run: Path,
    tiny_bundle: Path,
    phantom_zip: Path,
) -> Iterator[Desk]:
    """What a page assumes: an archive, films, and whatever of data set, run and bundle it does not make itself."""
    made = {name for block in RUNNING if block.page == request.param for name in re.findall(r"--out (\S+)", block.text)}
    drawn = encode_jpeg(film("virus", patient=1))
    (tmp_path / "film.jpeg").write_bytes(drawn)
    (tmp_path / "films").mkdir()
    for number, name in enumerate("abcdef"):
        finding = FINDINGS[number % len(FINDINGS)]
        (tmp_path / "films" / f"{name}.jpeg").write_bytes(encode_jpeg(film(finding, patient=number + 2)))
    shutil.copy(phantom_zip, tmp_path)
    for name, source in {"dataset": dataset.root, "run": tiny_run, "bundle": tiny_bundle, "other": tiny_bundle}.items():
        if name not in made:
            shutil.copytree(source, tmp_path / name)
    with Desk(tmp_path, command) as made_desk:
        yield made_desk


@pytest.mark.parametrize("desk", sorted({block.page for block in RUNNING}), indirect=True)
def test_the_blocks_of_a_page_run_in_order(desk: Desk, request: pytest.FixtureRequest) -> None:
    page = request.node.callspec.params["desk"]
    shown = {block.text: desk.run(block) for block in BLOCKS if block.page == page and block.reason is None}
    for text, printed in shown.items():
        if text.startswith(("pneumoscope predict", "import json")):
            assert re.search("answered|abstained|rejected", printed)


def test_a_block_that_fails_is_detected(tmp_path: Path, command: Callable[..., SimpleNamespace]) -> None:
    wrong = Block(page="a.md", kind="bash", title=None, text="pneumoscope predict\n", reason=None, code=0)
    with Desk(tmp_path, command) as empty, pytest.raises(AssertionError, match=r"a\.md"):
        empty.run(wrong)
