"""Films that are too large for a way into AWS: shrunk by the contract's own rule, which changes no probability."""

from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError
from pneumoscope.imaging import DEFAULT_LIMITS, Limits, shrink


def fit(film: bytes, limit: int, rule: InputRule | None, *, limits: Limits = DEFAULT_LIMITS) -> tuple[bytes, bool]:
    """The film as it is if it has at most `limit` bytes, else as the model reads it; and whether that was done.

    Raises:
        ImageError: it is too large, and cannot be read or there is no rule.
    """
    if len(film) <= limit:
        return film, False
    if rule is None:
        raise ImageError(
            f"the film has {len(film):,} bytes, and the endpoint takes {limit:,}; name the endpoint's bundle with "
            "--bundle to shrink it by the model's own rule, or deploy with --variant async."
        )
    return shrink(film, rule, limits=limits), True
