"""A file in memory with a limit on the number of reads.

A hostile header may consist of millions of markers, chunks or attributes, each of which costs a parser a few reads.
"""

from io import BytesIO

from pneumoscope.errors import ImageError

_MAX_READS = 200_000  # an ordinary film takes a few hundred


class BoundedBytes(BytesIO):
    """Bytes that can be read a limited number of times.

    Raises:
        ImageError: from the 200,001st call of `read` on.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ImageError("the file consists of more pieces than any film does; it is not read.")
        return super().read(size)
