"""Names as SageMaker takes them."""

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator


def checked_name(given: str) -> str:
    """SageMaker's rule for names of jobs, models and endpoints, of its service model in botocore.

    Raises:
        ValueError: it is no such name.
    """
    if re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", given) is None:
        raise ValueError(f"{given!r} is no name for SageMaker: letters, digits and hyphens between them, at most 63")
    return given


EndpointName: TypeAlias = Annotated[str, AfterValidator(checked_name)]
