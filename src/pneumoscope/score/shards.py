"""A listing cut into shards, each named by a hash of its films, its source, and the model and options that score it.

Where a shard ends depends on the names around the cut, not on how many films came before: a film added to a source
changes the shard that it falls into, and hardly ever another.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from pneumoscope.score.listing import Entry, Source
from pneumoscope.score.parts import SUFFIX

FILMS = 2000  # per shard, approximately
PREFIX = "part-"
_DIGITS = 32  # hexadecimal digits of a shard's hash: 128 bits


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some consecutive films of one source.

    `name` is the name of its part, `source` the number of its source. Entries are kept compressed, 3 to about 20 bytes
    per film, so that a driver can hold the shards of millions of films.
    """

    name: str
    source: int
    films: int
    packed: bytes

    def entries(self) -> list[Entry]:
        """The films, in the source's order."""
        return [Entry(*each) for each in json.loads(zlib.decompress(self.packed))]


def make_shards(source: Source, number: int, *, decision_key: str, films: int = FILMS) -> Iterator[Shard]:
    """Cut a source's listing, as it streams.

    Args:
        source: where the films are.
        number: of the source among those of the run.
        decision_key: identifies what decides on the films: model and options.
        films: per shard, approximately. A shard has from half to two and a half times as many; the last may have fewer.
    """
    for entries in cut(source.entries(), films):
        packed = json.dumps(entries, separators=(",", ":")).encode()  # JSON escapes names that are not UTF-8
        facts = json.dumps([decision_key, source.address, source.stamp]).encode()
        name = sha256(facts + b"\n" + packed).hexdigest()[:_DIGITS]
        yield Shard(
            name=f"{PREFIX}{name}{SUFFIX}", source=number, films=len(entries), packed=zlib.compress(packed, level=6)
        )


def cut(entries: Iterable[Entry], films: int) -> Iterator[list[Entry]]:
    """Groups of consecutive entries: at least half of `films`, and then up to the next entry whose name's hash is low.

    How rarely a hash is low follows from `films`, so that a group has that many entries on average; it ends at two and
    a half times as many in any case.
    """
    least, most = max(1, films // 2), max(1, films * 5 // 2)
    names_per_low = films - least + 1
    group: list[Entry] = []
    for entry in entries:
        low = zlib.crc32(entry.name.encode("utf-8", "surrogateescape")) % names_per_low == 0
        if (len(group) >= least and low) or len(group) >= most:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group
