"""
Corrupt Parquet files, each made from a seed; and a command that reads them.

``python corrupt_files.py FOLDER FIRST END`` reads the files of seeds FIRST to END - 1 and prints the result of each as a
line of JSON. If a file crashes or blocks the process, it is the one after the last line. ``python corrupt_files.py FILE``
reads one file.
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
CHECKSUM_FILES = 8
"""The valid files below this number have checksums."""

TIMEOUT_S = 120
"""For one file, after which the process is killed. A file usually takes 20 ms."""

_ROW_GROUPS = (100, 1_000, 37, 300)
_COMPRESSIONS = ("none", "snappy", "zstd", "gzip")
_EXTREMES = (0xFF, 0x7F, 0x80, 0x00)


def valid_file(number: int) -> bytes:
    """Return one of 16 valid files."""
    generator = np.random.default_rng(number)
    vectors = pa.array(generator.normal(size=ROWS * DIMENSION).astype(np.float32))
    table = pa.table(
        {
            "id": [f"id-{row}" for row in range(ROWS)],
            "values": pa.FixedSizeListArray.from_arrays(vectors, DIMENSION),
            "metadata": [f'{{"n": {row % 7}}}' for row in range(ROWS)],
        }
    )
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=_ROW_GROUPS[number % 4],
        compression=_COMPRESSIONS[number // 2 % 4],
        use_dictionary=bool(number & 1),
        write_page_checksum=number < CHECKSUM_FILES,
        data_page_version=("1.0", "2.0")[number // 4 % 2],
    )
    return buffer.getvalue()


def corrupt_file(seed: int) -> tuple[str, int, bytes]:
    """Return the kind of corruption, the number of the valid file, and the bytes."""
    draw = random.Random(seed)  # noqa: S311 - seeded
    number = draw.randrange(16)
    kind = list(_KINDS)[seed % len(_KINDS)]
    return kind, number, _KINDS[kind](draw, valid_file(number))


def _footer_start(content: bytes) -> int:
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


def _truncate(draw: random.Random, content: bytes) -> bytes:
    return content[: draw.randrange(len(content))]


def _flip(draw: random.Random, content: bytes, first: int, end: int, bits: int) -> bytes:
    changed = bytearray(content)
    for _ in range(bits):
        changed[draw.randrange(first, end)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _flip_data(draw: random.Random, content: bytes) -> bytes:
    return _flip(draw, content, 4, _footer_start(content), draw.choice([1, 20]))


def _flip_footer(draw: random.Random, content: bytes) -> bytes:
    return _flip(draw, content, _footer_start(content), len(content) - 8, draw.choice([1, 5]))


def _change_footer(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 6)):
        changed[draw.randrange(_footer_start(content), len(content) - 8)] = draw.choice(_EXTREMES)
    return bytes(changed)


def _change_end(draw: random.Random, content: bytes) -> bytes:
    size = len(content)
    length = draw.choice([0, 1, 2**31 - 1, 2**32 - 1, size, size - 8, size - 12, size - _footer_start(content)])
    return content[:-8] + length.to_bytes(4, "little") + draw.choice([b"PAR1", b"PARE", b"XXXX"])


def _change_page_header(draw: random.Random, content: bytes) -> bytes:
    footer = pq.read_metadata(io.BytesIO(content))
    group = footer.row_group(draw.randrange(footer.num_row_groups))
    leaf = group.column(draw.randrange(3))
    start = leaf.dictionary_page_offset or leaf.data_page_offset
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        changed[start + draw.randrange(24)] = draw.choice([*_EXTREMES, draw.randrange(256)])
    return bytes(changed)


def _lose_bytes(draw: random.Random, content: bytes) -> bytes:
    start = draw.randrange(4, _footer_start(content))
    count = min(draw.randrange(1, 200), _footer_start(content) - start)
    return content[:start] + draw.choice([b"", bytes(count)]) + content[start + count :]


def _swap_data(draw: random.Random, content: bytes) -> bytes:
    """Swap two parts of the data without changing the footer."""
    end = _footer_start(content)
    length = draw.randrange(1, end // 2)
    first, second = sorted(draw.sample(range(4, end - length), 2))
    second = min(max(second, first + length), end - length)
    changed = bytearray(content)
    changed[first : first + length], changed[second : second + length] = (
        content[second : second + length],
        content[first : first + length],
    )
    return bytes(changed)


def _not_parquet(draw: random.Random, content: bytes) -> bytes:
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
    "truncated": _truncate,
    "data bits flipped": _flip_data,
    "footer bits flipped": _flip_footer,
    "footer bytes changed": _change_footer,
    "footer length or magic changed": _change_end,
    "page header changed": _change_page_header,
    "bytes lost": _lose_bytes,
    "data swapped": _swap_data,
    "not Parquet": _not_parquet,
}


def digest(ids: list, values: list) -> str:
    """Return a few characters that identify these records."""
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
            encoded = encode(chunk, shape, max_bytes=10**6)
            ids += encoded.records.ids
            values += [json.loads(body)["values"] for body in encoded.records.bodies]
            errors += map(str, encoded.errors)
    except PineconeUpsertError as exc:
        return {"error": str(exc), "class": type(exc).__name__}
    return {"count": len(ids), "digest": digest(ids, values), "errors": errors}


def _read_with_arrow(path: Path) -> dict:
    """Read the same file with Arrow alone."""
    table = pq.ParquetFile(path).read(["id", "values"])
    return {"count": len(table), "digest": digest(table["id"].to_pylist(), table["values"].to_pylist())}


def _result(folder: Path, seed: int) -> dict:
    kind, number, content = corrupt_file(seed)
    path = folder / f"{seed}.parquet"
    path.write_bytes(content)
    result = _read(path)
    if "digest" in result and not result["errors"]:
        result["arrow"] = _read_with_arrow(path)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"seed": seed, "kind": kind, "number": number, "peak_mb": peak_mb, **result}


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(_read(Path(sys.argv[1]))))
    for seed in range(*map(int, sys.argv[2:])) if len(sys.argv) > 2 else ():
        signal.alarm(TIMEOUT_S)
        print(json.dumps(_result(Path(sys.argv[1]), seed)), flush=True)
