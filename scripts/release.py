"""The files of a release, from the commit up to the upload, which a person starts.

python scripts/release.py dist | sbom | check | release [--out dist]

`dist` builds the wheel and the sdist; `sbom` adds a bill of materials; `check` says whether this commit can be
released; `release` does all of that, tries both files out and adds release notes. All but `check` write the folder
anew, whole or not at all, with `SHA256SUMS`. docs/how-to/release.md has the steps before and after.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pneumoscope.errors import PneumoscopeError
from pneumoscope.files import sha256_of, whole_directory, write_json, write_text
from pneumoscope.phantom import encode_jpeg, film

NAME = "pneumoscope"
SUMS_FILE, NOTES_FILE = "SHA256SUMS", "release-notes.md"
LOCK = "requirements.lock"
ROOT = Path(__file__).parent.parent
BIN = Path(sys.prefix) / "bin"
UV = Path(sys.prefix) / "tools" / "bin" / "uv"  # where the Makefile puts it
_HEADING = re.compile(r"^## (?P<version>\S+) \((?P<when>[^)]*)\)\n", re.MULTILINE)
_TORCHLESS = "import importlib.util, pneumoscope.engine; assert importlib.util.find_spec('torch') is None"


class ReleaseError(PneumoscopeError):
    """This commit, or what was built from it, is not fit for release."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """What is uploaded."""

    wheel: Path
    sdist: Path


def version_of(root: Path) -> str:
    """The version, from the one place that has it; hatchling reads it there too."""
    (version,) = re.findall(r'^__version__ = "(.+)"$', (root / "src" / NAME / "__init__.py").read_text(), re.MULTILINE)
    return str(version)


def notes(changelog: str, version: str) -> str:
    """The section of a version in the changelog, without its heading.

    Raises:
        ReleaseError: there is no such section, it has no date (`## 1.2.0 (2026-11-27)`), or it is empty.
    """
    headings = {found["version"]: found for found in _HEADING.finditer(changelog)}
    if version not in headings:
        raise ReleaseError(f"CHANGELOG.md has no section `## {version} (YYYY-MM-DD)`; write it, and commit.")
    heading = headings[version]
    try:
        date.fromisoformat(heading["when"])
    except ValueError:
        raise ReleaseError(
            f"CHANGELOG.md dates {version} as {heading['when']!r}; replace it with the day as YYYY-MM-DD, and commit."
        ) from None
    text = changelog[heading.end() :].partition("\n## ")[0].strip()
    if not text:
        raise ReleaseError(f"CHANGELOG.md says nothing about {version}; write what changed, and commit.")
    return text + "\n"


def check(root: Path) -> str:
    """The version that a working tree can be released as.

    Raises:
        ReleaseError: files are not committed, the changelog is not ready, or the version's tag is on another commit.
    """
    if changed := _run("git", "status", "--porcelain", cwd=root):
        raise ReleaseError(f"the working tree is not clean; commit or remove first:\n{changed}")
    version = version_of(root)
    notes((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    tag = f"v{version}"
    if _run("git", "tag", "--list", tag, cwd=root) and tag not in _run("git", "tag", "--points-at", cwd=root).split():
        raise ReleaseError(f"{tag} exists already, on another commit; raise the version in src/{NAME}/__init__.py.")
    return version


def build(root: Path, out: Path) -> Built:
    """Build the wheel and the sdist into a folder, byte for byte the same from the same commit.

    Raises:
        ReleaseError: the build failed.
    """
    # Times within the archives are the commit's, https://reproducible-builds.org/specs/source-date-epoch/.
    when = {"SOURCE_DATE_EPOCH": _run("git", "log", "-1", "--format=%ct", cwd=root).strip()}
    _run(BIN / "hatchling", "build", "--directory", out.absolute(), cwd=root, more=when)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return Built(wheel=wheel, sdist=sdist)


def install(artefact: Path, place: Path, root: Path) -> Path:
    """Install a wheel or an sdist without extras into a new environment at `place`; return its interpreter.

    Dependencies come as wheels of the locked versions, so that no compiler is needed.

    Raises:
        ReleaseError: it cannot be installed, or the package registry cannot be reached.
    """
    _run(UV, "venv", "--quiet", "--python", sys.executable, place, cwd=place.parent)
    python, lock = place / "bin" / "python", root / LOCK
    ours = () if artefact.suffix == ".whl" else ("--no-binary", NAME)  # the sdist is built, with the locked hatchling
    wheels_only = ("--only-binary", ":all:", *ours)
    locked = ("--constraint", lock, "--build-constraint", lock)
    words = (UV, "pip", "install", "--quiet", "--python", python, *wheels_only, *locked, artefact)
    try:  # the cache has what `make` installed; a registry is asked for what it lacks
        _run(*words, "--offline", cwd=place.parent)
    except ReleaseError:
        _run(*words, cwd=place.parent)
    return python


def try_out(python: Path, version: str) -> None:
    """Use a clean installation as a newcomer would, in a new folder outside the source tree.

    Raises:
        ReleaseError: the version, the shipped bundle, its decision on a drawing or the import of the engine (which must
            not need torch) is wrong.
    """
    command = python.with_name(NAME)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "phantom.jpeg").write_bytes(encode_jpeg(film("virus", patient=1)))
        if (shown := _run(command, "--version", cwd=folder).strip()) != f"{NAME} {version}":
            raise ReleaseError(f"`{NAME} --version` says {shown!r} in place of {version}.")
        if "golden cases reproduced" not in (shown := _run(command, "verify", cwd=folder)):
            raise ReleaseError(f"`{NAME} verify` does not vouch for the shipped bundle: {shown}")
        decision = json.loads(_run(command, "predict", "phantom.jpeg", "--format", "json", cwd=folder, expected=1))
        if (decision["status"], *decision["reason_codes"][:1]) != ("rejected", "drawing"):
            raise ReleaseError(f"`{NAME} predict` takes a drawing for a film: {decision}")
        _run(python, "-c", _TORCHLESS, cwd=folder)


def write_bill(python: Path, built: Built, out: Path, root: Path) -> Path:
    """Write the bill of materials of a clean installation, CycloneDX 1.6: what `pip install` of the wheel brings.

    cyclonedx-py finds the packages, their licences and what needs what; it knows neither our version, which
    pyproject.toml leaves to the code, nor hashes, which are the lock's.

    Raises:
        ReleaseError: the bill does not follow CycloneDX's schema, or the lock does not have a package.
    """
    when = {"SOURCE_DATE_EPOCH": _run("git", "log", "-1", "--format=%ct", cwd=root).strip()}
    options = ("--spec-version", "1.6", "--output-reproducible", "--pyproject", root / "pyproject.toml")
    bill = json.loads(_run(BIN / "cyclonedx-py", "environment", *options, python, cwd=out, more=when))
    version, locked = version_of(root), _locked((root / LOCK).read_text())
    itself = bill["metadata"]["component"]
    itself |= {"version": version, "purl": f"pkg:pypi/{NAME}@{version}"}
    itself["externalReferences"] = [
        _distribution(path.name, [sha256_of(path)], "of this release") for path in (built.wheel, built.sdist)
    ]
    for each in bill["components"]:
        pin = each["purl"].removeprefix("pkg:pypi/")
        if pin not in locked:
            raise ReleaseError(f"{pin} was installed, which {LOCK} does not have.")
        known = [
            *each.get("externalReferences", []),
            _distribution(each["purl"], locked[pin], f"the files that {LOCK} accepts"),
        ]
        each["externalReferences"] = known
    path = out / f"{NAME}-{version}.cdx.json"
    write_json(path, bill)
    check_bill(path)
    return path


def check_bill(path: Path) -> None:
    """Compare a bill of materials with CycloneDX's own schema.

    Raises:
        ReleaseError: they differ.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text(encoding="utf-8")):
        raise ReleaseError(f"{path.name} is not a CycloneDX bill of materials: {fault}")


def write_sums(folder: Path) -> None:
    """Write the hashes of a folder's files, for `sha256sum --check SHA256SUMS`."""
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    write_text(folder / SUMS_FILE, "".join(lines))


def release(root: Path, out: Path) -> Built:
    """Everything up to the upload.

    Raises:
        ReleaseError: the commit cannot be released, or what was built from it does not work.
    """
    version = check(root)
    with _new(out) as folder, tempfile.TemporaryDirectory() as name:
        built, places = build(root, folder), Path(name)
        for kind, artefact in (("sdist", built.sdist), ("wheel", built.wheel)):
            try_out(install(artefact, places / kind, root), version)
        write_bill(places / "wheel" / "bin" / "python", built, folder, root)
        write_text(folder / NOTES_FILE, notes((root / "CHANGELOG.md").read_text(encoding="utf-8"), version))
        write_sums(folder)
    return Built(wheel=out / built.wheel.name, sdist=out / built.sdist.name)


def dist(root: Path, out: Path, *, bill: bool = False) -> Built:
    """The wheel and the sdist, of any working tree, and with `bill` their bill of materials.

    Raises:
        ReleaseError: the build failed; with `bill`, the wheel cannot be installed.
    """
    with _new(out) as folder, tempfile.TemporaryDirectory() as name:
        built = build(root, folder)
        if bill:
            write_bill(install(built.wheel, Path(name) / "wheel", root), built, folder, root)
        write_sums(folder)
    return Built(wheel=out / built.wheel.name, sdist=out / built.sdist.name)


def _new(out: Path) -> AbstractContextManager[Path]:
    return whole_directory(out, overwrite=True, holding=SUMS_FILE)


def _run(*command: object, cwd: Path, expected: int = 0, more: dict[str, str] | None = None) -> str:
    """Run a command (git, our own package's, or one of the locked tools) and return what it prints.

    It finds our package only where it is installed: the environment loses PYTHONPATH and our own variables.

    Raises:
        ReleaseError: it ends with another exit code than expected.
    """
    foreign = ("PYTHONPATH", "VIRTUAL_ENV", "PNEUMOSCOPE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment | (more or {}), capture_output=True, text=True, check=False)
    if done.returncode != expected:
        raise ReleaseError(f"`{' '.join(words)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _locked(lock: str) -> dict[str, list[str]]:
    """The SHA-256 hashes of each `name@version` in a lock file: one for each of the package's files."""
    entries = re.findall(r"^([a-z0-9.-]+)==([^\s;]+)((?:.*\\\n)+.*)$", lock, re.MULTILINE)
    return {f"{name}@{version}": re.findall(r"sha256:([0-9a-f]{64})", rest) for name, version, rest in entries}


def _distribution(url: str, hashes: list[str], comment: str) -> dict[str, Any]:
    """A reference to files of a component, in CycloneDX's words."""
    listed = [{"alg": "SHA-256", "content": each} for each in hashes]
    return {"type": "distribution", "url": url, "comment": comment, "hashes": listed}


def main() -> None:
    """Do one of the four, and say what comes next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("dist", "sbom", "check", "release"))
    parser.add_argument("--out", type=Path, default=Path("dist"))
    arguments = parser.parse_args()
    try:
        if arguments.work == "check":
            print(f"{NAME} {check(ROOT)} can be released from this commit.")
            return
        built = (
            release(ROOT, arguments.out)
            if arguments.work == "release"
            else dist(ROOT, arguments.out, bill=arguments.work == "sbom")
        )
    except PneumoscopeError as failure:
        sys.exit(f"error: {failure}")
    for path in sorted(arguments.out.iterdir()):
        print(path)
    if arguments.work == "release":
        tag = f"v{version_of(ROOT)}"
        print("\nNothing has been published. To publish, run:\n")
        print(f"  git tag --annotate {tag} --file {arguments.out / NOTES_FILE} && git push origin {tag}")
        print(f"  .venv/tools/bin/uv publish {built.wheel} {built.sdist}")


if __name__ == "__main__":
    main()
