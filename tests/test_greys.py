"""Films that have lost greys: one with hardly any left is refused, one with few left is read with a remark."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicoms import dicom
from pneumoscope.errors import ImageError
from pneumoscope.imaging import Radiograph, read_radiograph
from pneumoscope.phantom import film
from samples import encode

CHEST = film("normal", patient=1, size=(120, 150)).astype(np.uint16) * 16
LOOK = "this was applied, but check that the lungs are dark."


def table(start: int, bits: int, entries: NDArray[Any]) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, start, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return Sequence([item])


def chest(**header: Any) -> Radiograph:
    return read_radiograph(dicom(CHEST, BitsStored=12, **header))


def notes(read: Radiograph) -> list[str]:
    return [reason.text for reason in read.notes if reason.code == "note"]


def test_a_window_that_leaves_nearly_nothing_is_refused() -> None:
    for centre, words in (
        (-9000, "window leaves 100 % of the film white"),
        (90_000, "window leaves 100 % of the film black"),
    ):
        with pytest.raises(ImageError, match=words) as refusal:
            chest(WindowCenter=centre, WindowWidth=100)
        assert refusal.value.code == "greys"
    with pytest.raises(ImageError, match=r"window leaves \d of 256 levels of grey: too little to judge"):
        chest(WindowCenter=2000, WindowWidth=400_000)


def test_a_window_that_leaves_little_is_reported() -> None:
    low, high = np.quantile(CHEST, [0.3, 0.7])
    read = chest(WindowCenter=(low + high) / 2, WindowWidth=high - low)
    assert [reason.code for reason in read.notes] == ["greys"]
    assert "the DICOM's window leaves" in read.notes[0].text
    assert "black and" in read.notes[0].text


def test_another_window_of_the_file_is_tried_before_a_refusal() -> None:
    good = chest(WindowCenter=2048, WindowWidth=4096)
    assert good.notes == ()
    read = chest(WindowCenter=[-9000, 2048], WindowWidth=[100, 4096])
    np.testing.assert_array_equal(read.luma, good.luma)
    assert notes(read) == [
        "the DICOM's window leaves 100 % of the film white, so the DICOM's window number 2 was used."
    ]
    both = chest(VOILUTSequence=table(0, 12, np.zeros(4096)), WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_array_equal(both.luma, good.luma)
    assert "VOI LUT leaves 100 % of the film black, so the DICOM's window was used" in notes(both)[0]


def test_a_lut_that_uses_fewer_bits_than_it_states_is_read_by_the_bits_it_uses() -> None:
    shallow = chest(VOILUTSequence=table(0, 12, np.arange(4096)))
    deep = chest(VOILUTSequence=table(0, 16, np.arange(4096) // 64))
    assert np.abs(deep.luma.astype(int) - shallow.luma).max() <= 4
    assert "so the DICOM's VOI LUT read as 6-bit was used" in notes(deep)[0]
    for bits in (8, 10, 12, 14):
        of_its_bits = chest(VOILUTSequence=table(0, 16, np.arange(4096) * 2**bits // 4096))
        assert np.abs(of_its_bits.luma.astype(int) - shallow.luma).max() <= 1, bits
        assert f"read as {bits}-bit was used" in notes(of_its_bits)[0]


def test_a_film_that_is_nearly_all_padding_is_refused() -> None:
    few = np.where(np.quantile(CHEST, 0.95) > CHEST, 7, CHEST)
    with pytest.raises(ImageError, match=r"the DICOM's padding leaves 9\d % of the film black"):
        read_radiograph(dicom(few, BitsStored=12, PixelPaddingValue=7))


def test_contradictions_about_polarity_are_noted() -> None:
    plain, turned = chest(WindowCenter=2048, WindowWidth=4096), chest(RescaleSlope=-1, RescaleIntercept=4095)
    assert notes(turned) == [f"the DICOM's rescale slope is negative; {LOOK}"]
    inverse = chest(PresentationLUTShape="INVERSE", WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_array_equal(inverse.luma, 255 - plain.luma)
    white = "low values are shown as white, but check that the lungs are dark."
    assert notes(inverse) == [f"the DICOM is MONOCHROME2 with the Presentation LUT Shape INVERSE; {white}"]
    assert len(notes(chest(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="IDENTITY"))) == 1
    assert notes(chest(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")) == []
    falling = table(0, 12, np.arange(4095, -1, -1))
    assert notes(chest(VOILUTSequence=falling)) == [f"the DICOM's VOI LUT inverts black and white; {LOOK}"]
    assert notes(chest(ModalityLUTSequence=falling)) == [f"the DICOM's Modality LUT inverts black and white; {LOOK}"]


def test_blank_refers_to_stored_pixels_only() -> None:
    with pytest.raises(ImageError, match="blank: every pixel of the DICOM has the same value"):
        read_radiograph(dicom(np.full_like(CHEST, 77), BitsStored=12))
    with pytest.raises(ImageError, match="leaves 100 % of the film") as refusal:
        chest(WindowCenter=-9000, WindowWidth=1)
    assert refusal.value.code == "greys"
    clear = Image.fromarray(np.dstack([CHEST // 16] * 3 + [np.zeros_like(CHEST)]).astype(np.uint8), "RGBA")
    with pytest.raises(ImageError, match="blank: every pixel is transparent or has the same value"):
        read_radiograph(encode(clear))


def test_other_formats_are_checked_for_greys_too() -> None:
    black = np.zeros((100, 100), np.uint8)
    black[:5] = np.arange(100)
    with pytest.raises(ImageError, match=r"9\d % of the film is black: too little to judge") as refusal:
        read_radiograph(encode(Image.fromarray(black)))
    assert refusal.value.code == "greys"
    dead = CHEST.copy()
    dead[0, 0] = 65535  # one dead pixel takes up most of the range of a 12-bit film
    read = read_radiograph(encode(Image.fromarray(dead)))
    assert [reason.code for reason in read.notes] == ["greys"]
    assert "levels of grey" in read.notes[0].text


@given(
    centre=st.floats(-8000, 12_000),
    width=st.floats(1, 30_000),
    slope=st.sampled_from([1.0, -1.0, 0.25, 16.0]),
    scale=st.floats(0.01, 1.5),
    use_table=st.booleans(),
    negative=st.booleans(),
    seed=st.integers(0, 5),
)
@settings(max_examples=300, deadline=None)
def test_no_film_beyond_a_limit_is_read_without_a_remark(
    *, centre: float, width: float, slope: float, scale: float, use_table: bool, negative: bool, seed: int
) -> None:
    """Beyond the hard limit a film is never read; beyond the soft limit it is never read without the remark."""
    values = (film("virus", patient=seed, size=(64, 72)).astype(np.uint16) * 16 * min(scale, 1)).astype(np.uint16)
    header: dict[str, Any] = {
        "WindowCenter": centre,
        "WindowWidth": width,
        "RescaleSlope": slope,
        "RescaleIntercept": 0,
    }
    if use_table:
        header = {"VOILUTSequence": table(max(0, int(centre)), 12, np.clip(np.arange(4096) * scale, 0, 4095))}
    photometric = "MONOCHROME1" if negative else "MONOCHROME2"
    try:
        read = read_radiograph(dicom(values, BitsStored=12, PhotometricInterpretation=photometric, **header))
    except ImageError as refusal:
        assert refusal.code in ("greys", "blank")  # noqa: PT017  # either outcome is right
        return
    counts = np.bincount(read.luma.ravel(), minlength=256) / read.luma.size
    ends, levels = counts[0] + counts[255], int((counts > 1e-4).sum())
    assert ends <= 0.9
    assert levels >= 8
    if ends > 0.5 or levels < 80:
        assert "greys" in [reason.code for reason in read.notes]
