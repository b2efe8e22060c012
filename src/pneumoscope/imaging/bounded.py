"""A file in memory that ends a reader's patience: headers may be cut into millions of pieces."""

from io import BytesIO

from pneumoscope.errors import ImageError

_MOST_READS = 200_000  # an ordinary film takes some hundreds


class BoundedBytes(BytesIO):
    """Bytes that can be read only so many times: a marker, chunk or attribute costs a few reads.

    Raises:
        ImageError: from `read`, after 200,000 of them.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ImageError("the file is cut into more pieces than any film's; it is not read.")
        return super().read(size)
