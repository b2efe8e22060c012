"""Unpacking a bundle from `model.tar.gz`, the archive in which SageMaker keeps models."""

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pneumoscope.aws.session import Cloud, fetch_file
from pneumoscope.contract import CONTRACT_FILE
from pneumoscope.engine import Engine, verify
from pneumoscope.errors import BundleError
from pneumoscope.settings.aws_names import Location

_MAX_UNPACKED = 4 << 30  # bytes; the largest models have 0.6 GB. Stops archives that expand without end


@contextmanager
def fetch_bundle(cloud: Cloud, source: Location) -> Iterator[tuple[Path, Engine]]:
    """Download and verify the bundle in a `model.tar.gz` in S3.

    Yields:
        The bundle's folder, which is removed when the block ends, and its engine.

    Raises:
        BundleError: it is not such an archive, or contains no bundle that reproduces its golden cases.
        CloudError: it does not exist, or AWS refuses.
    """
    with TemporaryDirectory(prefix="pneumoscope-") as name:
        archive, folder = Path(name, "model.tar.gz"), Path(name, "model")
        fetch_file(cloud, source, archive)
        extract(archive, folder)
        # Archives for AWS's Ray Serve image hold the bundle in a folder of its own, beside our code.
        bundle = folder / "bundle" if (folder / "bundle" / CONTRACT_FILE).is_file() else folder
        engine = Engine.load(bundle)
        verify(bundle, engine=engine)
        yield bundle, engine


def extract(archive: Path, folder: Path) -> None:
    """Unpack a `model.tar.gz`, limited to 4 GiB and to paths inside the folder.

    Raises:
        BundleError: it is not a gzipped tar archive, is damaged or too large, or has members outside the folder.
    """
    try:
        with tarfile.open(archive, "r:gz") as packed:
            remaining = _MAX_UNPACKED
            for member in packed:
                remaining -= member.size
                if remaining < 0:
                    raise BundleError(
                        f"{archive} unpacks to more than {_MAX_UNPACKED:,} bytes; it is not one of our models."
                    )
                packed.extract(member, folder, filter="data")  # PEP 706: no devices, absolute paths or outside links
    except (OSError, EOFError, zlib.error, tarfile.TarError) as failure:
        raise BundleError(
            f"{archive} cannot be unpacked ({failure}); give the model.tar.gz of a training job."
        ) from failure
