"""
Damaged Parquet files, each made from a seed; and, as a command, what reading them comes to.

``python damaged.py FOLDER FIRST END`` reads the files of these seeds and tells of each one in a line of JSON. A file that
kills or halts the process is the one after the last line.
"""

import hashlib
import io
import json
import random
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 300
DIMENSION = 8
WITHIN_S = 120
"""For one file; usual are 20 ms. Whoever needs longer is killed."""

_ROW_GROUPS = (100, 1_000, 37, 300)
_COMPRESSIONS = ("none", "snappy", "zstd", "gzip")
_EXTREMES = (0xFF, 0x7F, 0x80, 0x00)


def whole(number: int) -> bytes:
    """Write one of 16 valid files; those below 8 have checksums."""
    drawn = np.random.default_rng(number)
    vectors = pa.array(drawn.normal(size=ROWS * DIMENSION).astype(np.float32))
    table = pa.table(
        {
            "id": [f"id-{row}" for row in range(ROWS)],
            "values": pa.FixedSizeListArray.from_arrays(vectors, DIMENSION),
            "metadata": [f'{{"n": {row % 7}}}' for row in range(ROWS)],
        }
    )
    written = io.BytesIO()
    pq.write_table(
        table,
        written,
        row_group_size=_ROW_GROUPS[number % 4],
        compression=_COMPRESSIONS[number // 2 % 4],
        use_dictionary=bool(number & 1),
        write_page_checksum=number < 8,
        data_page_version=("1.0", "2.0")[number // 4 % 2],
    )
    return written.getvalue()


def damaged(seed: int) -> tuple[str, int, bytes]:
    """Return the kind of damage, the number of the valid file, and the bytes."""
    draw = random.Random(seed)  # noqa: S311 - seeded
    number = draw.randrange(16)
    kind = list(_KINDS)[seed % len(_KINDS)]
    return kind, number, _KINDS[kind](draw, whole(number))


def _footer_of(content: bytes) -> int:
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


def _cut_short(draw: random.Random, content: bytes) -> bytes:
    return content[: draw.randrange(len(content))]


def _flip(draw: random.Random, content: bytes, first: int, end: int, bits: int) -> bytes:
    found = bytearray(content)
    for _ in range(bits):
        found[draw.randrange(first, end)] ^= 1 << draw.randrange(8)
    return bytes(found)


def _flip_data(draw: random.Random, content: bytes) -> bytes:
    return _flip(draw, content, 4, _footer_of(content), draw.choice([1, 20]))


def _flip_footer(draw: random.Random, content: bytes) -> bytes:
    return _flip(draw, content, _footer_of(content), len(content) - 8, draw.choice([1, 5]))


def _lie_in_footer(draw: random.Random, content: bytes) -> bytes:
    found = bytearray(content)
    for _ in range(draw.randrange(1, 6)):
        found[draw.randrange(_footer_of(content), len(content) - 8)] = draw.choice(_EXTREMES)
    return bytes(found)


def _lie_about_footer(draw: random.Random, content: bytes) -> bytes:
    size = len(content)
    length = draw.choice([0, 1, 2**31 - 1, 2**32 - 1, size, size - 8, size - 12, size - _footer_of(content)])
    return content[:-8] + length.to_bytes(4, "little") + draw.choice([b"PAR1", b"PARE", b"XXXX"])


def _lie_in_page_header(draw: random.Random, content: bytes) -> bytes:
    footer = pq.read_metadata(io.BytesIO(content))
    group = footer.row_group(draw.randrange(footer.num_row_groups))
    leaf = group.column(draw.randrange(3))
    start = leaf.dictionary_page_offset or leaf.data_page_offset
    found = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        found[start + draw.randrange(24)] = draw.choice([*_EXTREMES, draw.randrange(256)])
    return bytes(found)


def _lose_bytes(draw: random.Random, content: bytes) -> bytes:
    start = draw.randrange(4, _footer_of(content))
    count = min(draw.randrange(1, 200), _footer_of(content) - start)
    return content[:start] + draw.choice([b"", bytes(count)]) + content[start + count :]


def _swap_row_groups(draw: random.Random, content: bytes) -> bytes:
    """Exchange two stretches of the data, under a footer that does not know."""
    end = _footer_of(content)
    length = draw.randrange(1, end // 2)
    first, second = sorted(draw.sample(range(4, end - length), 2))
    second = min(max(second, first + length), end - length)
    found = bytearray(content)
    found[first : first + length], found[second : second + length] = (
        content[second : second + length],
        content[first : first + length],
    )
    return bytes(found)


def _no_parquet(draw: random.Random, content: bytes) -> bytes:
    return draw.choice(
        [
            b"",
            b"PAR1",
            b"PAR1PAR1",
            b"id,values\n1,2\n" * 100,
            bytes(1_000),
            content[:4] + bytes(len(content) - 8) + content[-4:],
            b"PAR1" + bytes(100) + (100).to_bytes(4, "little") + b"PAR1",
            b"\x1f\x8b" + content,
            content + b"\n",
        ]
    )


_KINDS = {
    "cut short": _cut_short,
    "bits of the data flipped": _flip_data,
    "bits of the footer flipped": _flip_footer,
    "footer that lies": _lie_in_footer,
    "lie about the footer": _lie_about_footer,
    "page header that lies": _lie_in_page_header,
    "bytes lost": _lose_bytes,
    "data exchanged": _swap_row_groups,
    "no Parquet": _no_parquet,
}


def digest(ids: list, values: list) -> str:
    """Tell records from others by a few characters."""
    bits = np.array(values, np.float32).tobytes()
    return hashlib.sha256(repr(ids).encode() + bits).hexdigest()[:16]


def _read(path: Path) -> dict:
    from fsspec.implementations.local import LocalFileSystem

    from airflow_pinecone_upsert.exceptions import PineconeUpsertError
    from airflow_pinecone_upsert.pipeline.encode.encoder import encode
    from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
    from airflow_pinecone_upsert.pipeline.options import Columns
    from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
    from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource

    shape = IndexShape(DIMENSION)
    source = ParquetSource(find_parquet_files(LocalFileSystem(), str(path)), Columns())
    ids, values, errors = [], [], []
    try:
        for chunk in source.chunks(shape):
            found = encode(chunk, shape, max_bytes=10**6)
            ids += found.fragments.ids
            values += [json.loads(body)["values"] for body in found.fragments.bodies]
            errors += map(str, found.errors)
    except PineconeUpsertError as exc:
        return {"error": str(exc), "class": type(exc).__name__}
    return {"count": len(ids), "digest": digest(ids, values), "errors": errors}


def _read_by_arrow(path: Path) -> dict:
    """Read the same with Arrow alone."""
    table = pq.ParquetFile(path).read(["id", "values"])
    return {"count": len(table), "digest": digest(table["id"].to_pylist(), table["values"].to_pylist())}


def _tell(folder: Path, seed: int) -> dict:
    kind, number, content = damaged(seed)
    path = folder / f"{seed}.parquet"
    path.write_bytes(content)
    found = _read(path)
    if "digest" in found and not found["errors"]:
        found["arrow"] = _read_by_arrow(path)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"seed": seed, "kind": kind, "number": number, "peak_mb": peak_mb, **found}


if __name__ == "__main__":
    for seed in range(int(sys.argv[2]), int(sys.argv[3])):
        signal.alarm(WITHIN_S)
        print(json.dumps(_tell(Path(sys.argv[1]), seed)), flush=True)
