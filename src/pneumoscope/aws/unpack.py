"""A bundle out of a `model.tar.gz`, in which SageMaker keeps models."""

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

_MOST_UNPACKED = 4 << 30  # bytes; a model is a tenth of that


@contextmanager
def fetch_bundle(cloud: Cloud, source: Location) -> Iterator[tuple[Path, Engine]]:
    """The bundle in a `model.tar.gz` in S3, in a folder that goes when the block ends, and its engine, verified.

    Raises:
        BundleError: no such archive, or no bundle in it that reproduces its golden cases.
        CloudError: it is not there, or AWS refuses.
    """
    with TemporaryDirectory(prefix="pneumoscope-") as name:
        archive, folder = Path(name, "model.tar.gz"), Path(name, "model")
        fetch_file(cloud, source, archive)
        extract(archive, folder)
        bundle = folder / "bundle" if (folder / "bundle" / CONTRACT_FILE).is_file() else folder
        engine = Engine.load(bundle)
        verify(bundle, engine=engine)
        yield bundle, engine


def extract(archive: Path, folder: Path) -> None:
    """Unpack a `model.tar.gz`: plain files inside the folder, and not endlessly.

    Raises:
        BundleError: it is no such archive, or holds something else.
    """
    try:
        with tarfile.open(archive, "r:gz") as packed:
            left = _MOST_UNPACKED
            for member in packed:
                left -= member.size
                if left < 0:
                    raise BundleError(
                        f"{archive} unpacks to more than {_MOST_UNPACKED:,} bytes; it is no model of ours."
                    )
                packed.extract(member, folder, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as failure:
        raise BundleError(
            f"{archive} cannot be unpacked ({failure}); give a model.tar.gz of a training job."
        ) from failure
