"""The published archives of Kermany, Zhang, Goldbaum 2018 (Mendeley Data rscbjbr9sj, CC BY 4.0)."""

from dataclasses import dataclass

_FILES = "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files"


@dataclass(frozen=True, kw_only=True)
class PublishedArchive:
    """One published version.

    `films_folder` names the folder of the chest films if the archive also contains other images; `size` is in bytes.
    """

    file: str
    url: str
    sha256: str
    size: int | None = None
    films_folder: str | None = None


#: By version of the data set on Mendeley Data.
PUBLISHED_ARCHIVES = {
    2: PublishedArchive(
        file="ChestXRay2017.zip",
        url=f"{_FILES}/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
        sha256="13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36",
        size=1_235_512_464,
    ),
    3: PublishedArchive(
        file="ZhangLabData.zip",
        url=f"{_FILES}/810b2ce2-11c3-4424-996e-3bef36600907/file_downloaded",
        sha256="acbc42869440eec719361942d0ba560f132742230262f22e78bfb93eb5ea4563",
        films_folder="chest_xray",  # no `size`, about 8.44 GB: if the whole archive is fetched, the server states it
    ),
}
