"""The wheel and the sdist, as they are built, described and released."""

import email.message
import email.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from readme_renderer import markdown
from trove_classifiers import classifiers

import release
from hatch_build import describe
from pneumoscope import __version__
from pneumoscope.contract import load_contract
from pneumoscope.files import sha256_of
from pneumoscope.models import SHIPPED, shipped_bundle
from release import NOTES_FILE, SUMS_FILE, Built, ReleaseError
from samples import REPOSITORY

DATED = f"""# Changes

## {__version__} (2026-11-27)

A first release.

- One thing.

## 0.0.1 (2026-01-01)

- Old.
"""
IDENTITY = ("-c", "user.name=Tester", "-c", "user.email=tester@example.invalid", "-c", "commit.gpgsign=false")
#: How uv says that there is no network.
UNREACHABLE = ("error sending request", "client error (Connect)", "dns error", "timed out")


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *IDENTITY, *words], cwd=folder, capture_output=True, check=True)


def committed(folder: Path) -> Path:
    """A folder as a repository with one commit."""
    git(folder, "init", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--message", "All of it")
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with a version and a changelog, and nothing else."""
    root = tmp_path / "small"
    source = root / "src" / "pneumoscope"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text(f'"""A package."""\n\n__version__ = "{__version__}"\n')
    (root / "CHANGELOG.md").write_text(DATED)
    return committed(root)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This working tree as one commit, with a changelog that is ready for release."""
    root = tmp_path_factory.mktemp("copy") / "pneumoscope"
    listed = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.rstrip("\0").split("\0"):
        if (REPOSITORY / name).is_file():  # one that is listed may have been removed
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    (root / "CHANGELOG.md").write_text(DATED)
    return committed(root)


@pytest.fixture(scope="module")
def built(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return release.dist(copy, tmp_path_factory.mktemp("dist") / "dist")


def metadata_of(built: Built) -> email.message.Message:
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parse(io.StringIO(wheel.read(name).decode("utf-8")))


@pytest.mark.slow
def test_both_have_the_package_and_the_bundle_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel, tarfile.open(built.sdist) as sdist:
        stem = f"pneumoscope-{__version__}/"
        in_wheel = {name for name in wheel.namelist() if not name.startswith(f"pneumoscope-{__version__}.dist-info/")}
        in_sdist = {member.name.removeprefix(stem) for member in sdist.getmembers()}
    beside = {"PKG-INFO", "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "hatch_build.py", ".gitignore"}
    assert {f"src/{name}" for name in in_wheel} == in_sdist - beside
    assert beside <= in_sdist
    bundle = f"pneumoscope/models/{SHIPPED}"
    assert {f"{bundle}/{name}" for name in ("contract.json", *load_contract(shipped_bundle()).files)} <= in_wheel
    films = {".jpeg", ".jpg", ".png", ".tiff", ".dcm", ".zip"}
    assert not [n for n in in_wheel if Path(n).suffix in films and not n.startswith(f"{bundle}/golden/")]
    assert not [name for name in in_wheel if "__pycache__" in name or name.endswith(".pyc")]
    assert {
        "pneumoscope/py.typed",
        "pneumoscope/recipes/quick.toml",
        "pneumoscope/server/static/index.html",
    } <= in_wheel


@pytest.mark.slow
def test_the_metadata_are_right(built: Built) -> None:
    metadata = metadata_of(built)
    assert (metadata["Name"], metadata["Version"]) == ("pneumoscope", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "not a medical device" in metadata["Summary"]
    assert set(metadata.get_all("Classifier", [])) <= classifiers
    assert len(metadata.get_all("Classifier", [])) > 5
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra", [])) == set(extras)


@pytest.mark.slow
def test_the_long_description_is_the_readme_and_renders(built: Built) -> None:
    metadata = metadata_of(built)
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert text.startswith("# Pneumoscope")
    page = markdown.render(text)
    assert page is not None
    assert "<h1>" in page or "<h1 " in page
    targets = re.findall(r"(?:href|src)=\"([^\"]+)\"", page)
    assert targets
    assert not [target for target in targets if "://" not in target and not target.startswith("#")]


def test_links_lead_to_the_tag_where_the_source_is_known() -> None:
    readme = (
        "[data](docs/data.md#labels) ![a page](docs/page.png) [there](https://example.org/a) [here](#here)\n"
        '<img src="docs/page.png" width="9">\n\n```python\nrows[0](docs)\n```\n'
    )
    source = "https://example.org/pneumoscope"
    assert describe(readme, source, tag="v1.0") == (
        f"[data]({source}/blob/v1.0/docs/data.md#labels) ![a page]({source}/raw/v1.0/docs/page.png) "
        "[there](https://example.org/a) [here](#here)\n"
        f'<img src="{source}/raw/v1.0/docs/page.png" width="9">\n\n```python\nrows[0](docs)\n```\n'
    )
    assert describe(readme, None, tag="v1.0") == (
        "data  [there](https://example.org/a) [here](#here)\n\n\n```python\nrows[0](docs)\n```\n"
    )


@pytest.mark.slow
def test_an_sdist_builds_the_same_wheel(built: Built, copy: Path, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    when = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=copy, capture_output=True, text=True, check=True)
    environment = os.environ | {"SOURCE_DATE_EPOCH": when.stdout.strip()}
    command = [str(release.BIN / "hatchling"), "build", "--target", "wheel", "--directory", str(tmp_path / "dist")]
    subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, check=True)
    assert (tmp_path / "dist" / built.wheel.name).read_bytes() == built.wheel.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not release.UV.exists(), reason="uv is not where `make` puts it")
def test_a_release_is_complete_except_for_the_upload(built: Built, copy: Path, tmp_path: Path) -> None:
    """Both files are installed into clean environments and tried there; see `try_out`, whose refusals are below."""
    try:
        released = release.release(copy, tmp_path / "dist")
    except ReleaseError as failure:
        if any(words in str(failure) for words in UNREACHABLE):
            pytest.skip("the package registry cannot be reached, and the cache lacks a locked package")
        raise
    bill = tmp_path / "dist" / f"pneumoscope-{__version__}.cdx.json"
    names = {built.wheel.name, built.sdist.name, bill.name, SUMS_FILE, NOTES_FILE}
    assert {path.name for path in (tmp_path / "dist").iterdir()} == names
    for again, first in ((released.wheel, built.wheel), (released.sdist, built.sdist)):
        assert again.read_bytes() == first.read_bytes(), f"two builds of {again.name} differ"
    subprocess.run(["sha256sum", "--check", "--strict", SUMS_FILE], cwd=tmp_path / "dist", check=True)
    assert len((tmp_path / "dist" / SUMS_FILE).read_text().splitlines()) == len(names) - 1
    assert (tmp_path / "dist" / NOTES_FILE).read_text() == "A first release.\n\n- One thing.\n"
    release.check_bill(bill)
    check_materials(json.loads(bill.read_text()), released)


def check_materials(bill: dict[str, object], released: Built) -> None:
    """The bill names this release's files, and every package with its files' hashes and, as far as known, licence."""
    itself = bill["metadata"]["component"]  # type: ignore[index]
    assert (itself["name"], itself["version"]) == ("pneumoscope", __version__)
    hashes = {each["url"]: each["hashes"][0]["content"] for each in itself["externalReferences"]}
    assert hashes == {path.name: sha256_of(path) for path in (released.wheel, released.sdist)}
    parts = bill["components"]
    assert isinstance(parts, list)
    names = {part["name"].lower() for part in parts}
    assert names >= {"numpy", "onnxruntime", "pillow", "fastapi", "simplejpeg"}
    assert not names & {"torch", "pydicom", "scikit-learn", "pytest", "pneumoscope"}
    assert all(part["externalReferences"][-1]["hashes"] for part in parts)
    assert sum("licenses" in part for part in parts) > 0.9 * len(parts)


def stand_in(
    folder: Path, *, version: str = __version__, verify: str = "golden cases reproduced", decision: str
) -> Path:
    """An installation whose commands say these words."""
    folder.mkdir()
    lines = (
        "#!/bin/sh",
        'case "$1" in',
        f"--version) echo 'pneumoscope {version}' ;;",
        f"verify) echo '{verify}' ;;",
        f"predict) echo '{decision}'; exit 1 ;;",
        "esac",
    )
    for name in ("pneumoscope", "python"):
        (folder / name).write_text("\n".join(lines) + "\n")
        (folder / name).chmod(0o755)
    return folder / "python"


REJECTED = '{"status": "rejected", "reason_codes": ["drawing"]}'


def test_an_installation_that_works_is_vouched_for(tmp_path: Path) -> None:
    release.try_out(stand_in(tmp_path / "bin", decision=REJECTED), __version__)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"version": "9.9"}, "in place of"),
        ({"verify": "nothing"}, "does not vouch"),
        ({"decision": '{"status": "answered", "reason_codes": []}'}, "takes a drawing for a film"),
    ],
    ids=["version", "bundle", "drawing"],
)
def test_an_installation_that_does_not_work_is_refused(tmp_path: Path, words: dict[str, str], message: str) -> None:
    with pytest.raises(ReleaseError, match=message):
        release.try_out(stand_in(tmp_path / "bin", **{"decision": REJECTED} | words), __version__)


def test_a_commit_that_is_ready_can_be_released(small: Path) -> None:
    assert release.check(small) == __version__


def test_a_dirty_tree_is_refused(small: Path) -> None:
    (small / "new.txt").write_text("not committed\n")
    with pytest.raises(ReleaseError, match=r"not clean(?s:.*)new\.txt"):
        release.check(small)


def test_a_version_that_was_released_from_another_commit_is_refused(small: Path) -> None:
    git(small, "tag", f"v{__version__}")
    assert release.check(small) == __version__  # a second try from the same commit
    git(small, "commit", "--allow-empty", "--message", "More")
    with pytest.raises(ReleaseError, match="exists already"):
        release.check(small)


@pytest.mark.parametrize(
    ("changelog", "message"),
    [
        ("# Changes\n\n## 9.9 (2026-01-01)\n\n- New.\n", "has no section"),
        (f"# Changes\n\n## {__version__} (unreleased)\n\n- New.\n", "'unreleased'"),
        (f"# Changes\n\n## {__version__} (2026-13-01)\n\n- New.\n", "'2026-13-01'"),
        (f"# Changes\n\n## {__version__} (2026-01-01)\n\n## 0.0.1 (2025-01-01)\n\n- Old.\n", "says nothing"),
    ],
    ids=["missing", "undated", "no-day", "empty"],
)
def test_a_changelog_that_is_not_ready_is_refused(small: Path, changelog: str, message: str) -> None:
    (small / "CHANGELOG.md").write_text(changelog)
    git(small, "commit", "--all", "--message", "Another changelog")
    with pytest.raises(ReleaseError, match=message):
        release.check(small)


def test_the_notes_are_the_versions_section() -> None:
    assert release.notes(DATED, __version__) == "A first release.\n\n- One thing.\n"
    assert release.notes(DATED, "0.0.1") == "- Old.\n"


def test_the_version_is_written_in_one_place() -> None:
    assert release.version_of(REPOSITORY) == __version__
    written = re.compile(rf"^\s*(?:__)?version(?:__)?\"?\s*[:=]\s*[\"']?{re.escape(__version__)}", re.MULTILINE)
    listed = [
        "git",
        "-C",
        str(REPOSITORY),
        "ls-files",
        "*.py",
        "*.toml",
        "*.cff",
        "*.yaml",
        "*.yml",
        "Makefile",
        ":!tests",
    ]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [name for name in names if (REPOSITORY / name).exists() and written.search((REPOSITORY / name).read_text())]
    assert found == ["src/pneumoscope/__init__.py"]


def test_the_upload_is_left_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Built(wheel=tmp_path / "a.whl", sdist=tmp_path / "a.tar.gz")
    monkeypatch.setattr(release, "release", lambda _root, _out: files)
    monkeypatch.setattr(sys, "argv", ["release.py", "release", "--out", str(tmp_path)])
    release.main()
    shown = capsys.readouterr().out
    assert "Nothing has been published" in shown
    assert f"uv publish {files.wheel} {files.sdist}" in shown
    assert f"git tag --annotate v{__version__}" in shown


def test_a_refusal_is_one_message(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    (small / "new.txt").write_text("not committed\n")
    monkeypatch.setattr(release, "ROOT", small)
    monkeypatch.setattr(sys, "argv", ["release.py", "check"])
    with pytest.raises(SystemExit, match=r"^error: the working tree is not clean"):
        release.main()


def test_a_release_is_one_command() -> None:
    steps = subprocess.run(
        ["make", "--dry-run", "release"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    order = [steps.index(words) for words in ("release.py check", "pytest", "release.py release")]
    assert order == sorted(order)
    assert "publish" not in steps
