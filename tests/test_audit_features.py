"""The features that the shortcut baselines see: header facts, JPEG quality, brightness, border, thumbnail."""

from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pneumoscope.audit.features import RULE, jpeg_quality, measure
from pneumoscope.imaging import read_radiograph, to_input
from pneumoscope.phantom import encode_jpeg, film
from samples import encode


def test_jpeg_quality_is_read_from_the_tables() -> None:
    luma = film("normal", patient=1, size=(80, 80))
    for quality in (10, 50, 75, 85, 96, 100):
        quantiser = read_radiograph(encode_jpeg(luma, quality=quality)).facts.quantiser
        assert quantiser is not None
        assert jpeg_quality(quantiser) == quality
    assert read_radiograph(encode(Image.fromarray(luma))).facts.quantiser is None


def test_header_facts_of_jpeg_png_and_tiff() -> None:
    luma = Image.fromarray(film("normal", patient=1, size=(80, 80)))
    tags = Image.Exif()
    tags[274] = 3
    jpeg = read_radiograph(encode(luma, "JPEG", exif=tags, icc_profile=b"profile", progressive=True)).facts
    assert jpeg.exif
    assert jpeg.icc
    assert jpeg.progressive
    assert jpeg.orientation == 3
    assert jpeg.bits == 8
    deep = read_radiograph(encode(Image.fromarray(np.asarray(luma, np.uint16) * 9))).facts
    assert deep.bits == 16
    assert not deep.exif
    assert not deep.icc
    assert not deep.progressive
    directory = ImageFileDirectory_v2()
    directory[274] = 8
    tiff = read_radiograph(encode(luma, "TIFF", tiffinfo=directory)).facts
    assert tiff.format == "TIFF"
    assert tiff.bits == 8
    assert tiff.orientation == 8
    assert not tiff.exif


def test_features_change_with_the_property_that_they_measure() -> None:
    luma = film("normal", patient=1, size=(300, 320))

    def vectors(changed: Any, content: bytes) -> Any:
        return measure(read_radiograph(content).facts, len(content), to_input(changed, RULE)[0])

    content = encode_jpeg(luma)
    plain = vectors(luma, content)
    again = vectors(luma, encode_jpeg(luma, quality=50))
    assert not np.array_equal(plain.metadata, again.metadata)
    assert np.array_equal(plain.intensity, again.intensity)
    marked = luma.copy()
    marked[:12, :12] = 255
    framed = vectors(marked, content)
    assert np.array_equal(plain.metadata, framed.metadata)
    assert not np.array_equal(plain.border, framed.border)
    assert plain.thumb.shape == (16, 16)
    assert abs(float(plain.thumb.mean()) - float(to_input(luma, RULE).mean())) < 1
