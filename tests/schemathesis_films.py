"""Films for schemathesis, whose random bytes are not images: it posts these for every `binary` body."""

import schemathesis
from hypothesis import strategies
from PIL import Image

from dicoms import one_of_each
from pneumoscope.phantom import encode_jpeg, film
from samples import encode

LUMA = film("virus", patient=2, size=(60, 70))
FILMS = {
    "image/jpeg": encode_jpeg(LUMA),
    "image/png": encode(Image.fromarray(LUMA)),
    "image/tiff": encode(Image.fromarray(LUMA), "TIFF"),
}
DICOMS = list(one_of_each().values())

for kind, data in FILMS.items():
    schemathesis.openapi.media_type(kind, strategies.just(data))
schemathesis.openapi.media_type("application/dicom", strategies.sampled_from(DICOMS))
for kind in ("application/octet-stream", "application/x-image"):
    schemathesis.openapi.media_type(kind, strategies.sampled_from([*FILMS.values(), *DICOMS]))
schemathesis.openapi.format("binary", strategies.sampled_from([*FILMS.values(), *DICOMS]))
