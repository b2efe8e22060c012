"""The archives sent to AWS: our code for AWS's own images, and a bundle as `model.tar.gz`."""

import gzip
import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import IO

from packaging.requirements import Requirement

from pneumoscope.contract import CONTRACT_FILE, load_contract
from pneumoscope.models import SHIPPED

TRAIN_PROGRAM = "train.py"
_PACKAGE = "pneumoscope"
_IN_AWS_IMAGE = re.compile(r"(torch|torchvision|triton|(cuda|nvidia)-[a-z0-9-]+)==")
_TRAIN = f'''"""Made by `pneumoscope aws train`: the training image runs this with the hyper-parameters as arguments."""

from {_PACKAGE}.aws.job.__main__ import main

main()
'''
_DEPLOYMENT = f'''"""Made by `pneumoscope aws deploy --serving ray`: what Ray Serve runs."""

from pathlib import Path

from {_PACKAGE}.server.rayserve import application

app = application(Path(__file__).parent / "bundle")
'''
_RAY_CONFIG = """applications:
  - name: pneumoscope
    route_prefix: /
    import_path: deployment:app
"""


def training_archive() -> bytes:
    """`sourcedir.tar.gz` for script mode: the entry point, this package, and a list of the packages that it needs."""
    stream = io.BytesIO()
    with _open_archive(stream) as archive:
        _add(archive, TRAIN_PROGRAM, _TRAIN.encode())
        _add(archive, "requirements.txt", _lines(pinned_requirements()))
        _add_package(archive)
    return stream.getvalue()


def write_model_archive(bundle: Path, stream: IO[bytes], *, for_ray: bool) -> None:
    """Write `model.tar.gz`: the bundle's files, or for AWS's Ray Serve image our code with the bundle in a folder."""
    contract = load_contract(bundle)
    with _open_archive(stream) as archive:
        for name in (CONTRACT_FILE, *contract.files):
            _add(archive, f"bundle/{name}" if for_ray else name, (bundle / name).read_bytes())
        if for_ray:
            _add(archive, "config.yaml", _RAY_CONFIG.encode())
            _add(archive, "deployment.py", _DEPLOYMENT.encode())
            _add(archive, "code/requirements.txt", _lines(requirements("dicom")))
            _add_package(archive)


def pinned_requirements() -> list[str]:
    """What a training job installs: the lock's packages with their hashes, without those that AWS's image already has.

    pip keeps an installed package that satisfies the others' requirements, so PyTorch stays the image's build. Of the
    listed packages it accepts only files whose hash is in the list.
    """
    lock = resources.files("pneumoscope.aws.client") / "train.lock"
    entries = re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8").strip())
    return [each for each in entries if _IN_AWS_IMAGE.match(each) is None]


def requirements(extra: str) -> list[str]:
    """This package's requirements with one of its extras, in pip's syntax; extras within that extra are left out."""
    found = set[str]()
    for each in map(Requirement, metadata.requires(_PACKAGE) or []):
        wanted = each.marker is None or any(each.marker.evaluate({"extra": name}) for name in ("", extra))
        if wanted and each.name != _PACKAGE:
            each.marker = None
            found.add(str(each))
    return sorted(found)


@contextmanager
def _open_archive(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """A gzipped tar archive for writing. The same files give the same bytes: no times, no owners."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        yield archive


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _add_package(archive: tarfile.TarFile) -> None:
    """Our code without the shipped bundle: jobs and endpoints bring their own, and must never fall back to ours."""
    with resources.as_file(resources.files(_PACKAGE)) as root:
        shipped = root / "models" / SHIPPED
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and shipped not in path.parents:
                _add(archive, f"{_PACKAGE}/{path.relative_to(root).as_posix()}", path.read_bytes())


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()
