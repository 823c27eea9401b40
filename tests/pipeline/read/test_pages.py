"""The headers of Parquet's pages: read from any file, and what follows from them for a file."""

import io
import itertools
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_pinecone_upsert.exceptions import SourceError
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.page_checks import MAX_PAGE_BYTES
from airflow_pinecone_upsert.pipeline.read.pages import page_headers
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource

from . import corrupt_files

RECORD = pa.table({"id": ["a"], "values": [np.ones(2, np.float32)]})

READ_BYTES = 4_096
"""At most, for one header."""


class CountingFile(io.BytesIO):
    """Counts the bytes that are read from it."""

    bytes_read = 0

    def read(self, size=-1):
        content = super().read(size)
        self.bytes_read += len(content)
        return content


def chunks_of(content):
    """Yield the metadata of each column chunk, and where its pages begin and end."""
    footer = pq.read_metadata(io.BytesIO(content))
    for group, column in itertools.product(range(footer.num_row_groups), range(footer.num_columns)):
        chunk = footer.row_group(group).column(column)
        start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
        yield chunk, start, start + chunk.total_compressed_size


def check_headers(content, *, has_checksums):
    for chunk, start, end in chunks_of(content):
        headers = list(page_headers(io.BytesIO(content), start, end))
        assert headers[-1].end == end
        assert {header.has_checksum for header in headers} == {has_checksums}
        header_bytes = chunk.total_uncompressed_size - sum(header.uncompressed_bytes for header in headers)
        assert 0 < header_bytes < 100 * len(headers)


@pytest.mark.parametrize("number", range(16))
def test_the_pages_of_a_column_chunk_fill_it(number):
    check_headers(corrupt_files.valid_file(number), has_checksums=number < corrupt_files.CHECKSUM_FILES)


def test_headers_with_long_texts_are_read_in_bounded_memory():
    """The lowest and the highest text of a page are in its header, twice each; texts above 4 KB are left out."""
    buffer = io.BytesIO()
    texts = pa.table({"text": ["a" * 4_000, "b" * 4_000] * 10})
    pq.write_table(texts, buffer, use_dictionary=False, data_page_size=1_000, write_batch_size=4)
    [(_, start, end)] = chunks_of(buffer.getvalue())
    file = CountingFile(buffer.getvalue())
    headers = list(page_headers(file, start, end))
    assert headers[-1].end == end
    assert len(headers) == 5
    assert file.bytes_read <= READ_BYTES * len(headers)


def read_any(content, start=0, end=None):
    file = CountingFile(content)
    headers = list(page_headers(file, start, len(content) if end is None else end))
    assert file.bytes_read <= READ_BYTES * (len(headers) + 1)
    assert len(headers) <= len(content)
    return headers


@given(st.binary(max_size=200), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
@example(b"\x18" + b"\xff" * 9 + b"\x7f", 0, 2**63 - 1)  # a text of 2^70 bytes
@example(b"\x1c" * 4_000, 0, 4_000)  # structs in structs
@example(b"\x11" * 10_000, 0, 10_000)  # fields without an end
def test_no_bytes_are_too_strange_to_be_read(content, start, end):
    read_any(content)
    read_any(content, start, end)


@given(number=st.integers(0, 15), changes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4))
def test_a_changed_header_is_read_or_not_valid(number, changes):
    content = bytearray(corrupt_files.valid_file(number))
    for offset, byte in changes:
        content[4 + offset] = byte
    read_any(bytes(content), 4)


@pytest.fixture
def checksum_lines(caplog):
    """Return the lines of the log at INFO that say that there are no checksums."""
    caplog.set_level(logging.INFO)
    return lambda: [message for message in caplog.messages if "has no page checksums" in message]


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0", "compression": "none"}], ids=str)
def test_an_upsert_logs_once_that_files_have_no_checksums(*, index, run, write, tmp_path, checksum_lines, options):
    write(RECORD, "all/1.parquet", write_page_checksum=True, **options)
    write(RECORD, "all/2.parquet", **options)
    write(RECORD, "all/3.parquet", **options)
    assert run(index, tmp_path / "all").upserted_count == 3
    [line] = checksum_lines()
    assert line.startswith(
        f"{tmp_path}/all/2.parquet has no page checksums, so a flipped bit in it cannot be detected."
    )
    assert line.endswith("in pyarrow, with write_page_checksum=True.")


def test_an_upsert_of_files_with_checksums_does_not_log_about_them(index, run, write, tmp_path, checksum_lines):
    write(RECORD, "all/1.parquet", write_page_checksum=True)
    write(RECORD.slice(0, 0), "all/2.parquet")
    assert run(index, tmp_path / "all").upserted_count == 1
    assert checksum_lines() == []


@pytest.mark.parametrize("has_checksums", [True, False])
def test_on_another_machine_only_the_first_file_is_looked_at(write, tmp_path, checksum_lines, has_checksums):
    count = 300  # in fewer, Arrow's own reads are as small as those for a header
    table = pa.table({"id": [f"record {row}" for row in range(count)], "values": [np.arange(2.0) + 1] * count})
    write(table.slice(0, 0), "all/1.parquet")
    options = {"compression": "none", "use_dictionary": False}
    write(table, "all/2.parquet", write_page_checksum=has_checksums, **options)
    write(table, "all/3.parquet", **options)
    fs = RemoteFileSystem(tmp_path)
    assert len(list(ParquetSource(find_parquet_files(fs, "all"), Columns()).chunks(IndexShape(2)))) == 2
    assert fs.header_reads == 1
    assert [line.split()[0] for line in checksum_lines()] == ([] if has_checksums else ["remote://all/2.parquet"])


def metadata_in_one_page(page_bytes):
    """Return records whose metadata take so many bytes, and how they are written as one page."""
    count = page_bytes // 40_000 + 1
    text = '{"text": "' + "x" * (40_000 - 4 - 12) + '"}'
    table = pa.table(
        {"id": pa.array(range(count)), "values": [np.ones(2, np.float32)] * count, "metadata": [text] * count}
    )
    return table, {"compression": "zstd", "use_dictionary": False, "data_page_size": 2**31 - 1}


@pytest.fixture(scope="module")
def large_pages(tmp_path_factory):
    """Write a file whose second row group has a page above the limit, in its last column."""
    table, options = metadata_in_one_page(MAX_PAGE_BYTES)
    path = tmp_path_factory.mktemp("large") / "large.parquet"
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        writer.write_table(table.slice(0, 1))
        writer.write_table(table)
    return path


def test_a_page_that_is_too_large_is_rejected_with_the_remedy(index, run, upserts, large_pages):
    message = (
        r"large.parquet, row group 1, column 'metadata': a page has 128,0\d\d,\d{3} bytes, the limit is 128,000,000, .*"
        r"smaller pages or row groups; in pyarrow, with data_page_size=1_000_000 and row_group_size=10_000\.$"
    )
    with pytest.raises(SourceError, match=message):
        run(index, large_pages)
    assert not upserts(index)


def test_a_dictionary_that_is_too_large_is_rejected(index, run, write):
    table, _ = metadata_in_one_page(MAX_PAGE_BYTES)
    texts = [f'{{"n": {row}, "text": "{"x" * 40_000}"}}' for row in range(len(table))]
    table = table.set_column(2, "metadata", pa.array(texts))
    path = write(table, compression="zstd", dictionary_pagesize_limit=2**31 - 1)
    with pytest.raises(SourceError, match=r"records.parquet, row group 0, column 'metadata': a page has 128,\d"):
        run(index, path)


def test_a_corrupt_header_of_a_large_page_is_an_error_of_the_file(index, run, large_pages, tmp_path):
    """What is wrong is Arrow's to say, as for any other page."""
    content = bytearray(large_pages.read_bytes())
    start = pq.read_metadata(large_pages).row_group(1).column(2).data_page_offset
    content[start : start + 20] = b"\xff" * 20
    path = tmp_path / "corrupt.parquet"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"corrupt.parquet, row group 1, column 'metadata' cannot be read as Parquet"):
        run(index, path)


@pytest.mark.parametrize("remedy", [{"data_page_size": 1_000_000}, {"row_group_size": 1_000}], ids=str)
def test_the_remedy_helps(write, remedy):
    table, options = metadata_in_one_page(MAX_PAGE_BYTES)
    path = write(table, **{**options, **remedy})
    source = ParquetSource(find_parquet_files(LocalFileSystem(), str(path)), Columns())
    assert next(source.chunks(IndexShape(2))).rows[0] == 0


class RemoteFileSystem(DirFileSystem):
    """Looks like a file system on another machine, and records the size of each read."""

    protocol = "remote"
    cachable = False

    def __init__(self, folder):
        super().__init__(str(folder), LocalFileSystem())
        self.reads = []

    def open(self, *args, **options):
        handle = super().open(*args, **options)
        read = handle.read

        def recorded(size=-1):
            self.reads.append(size)
            return read(size)

        handle.read = recorded
        return handle

    @property
    def header_reads(self):
        """How many reads were for the header of a page."""
        return sum(size <= 512 for size in self.reads)


def test_one_page_of_a_column_on_another_machine_is_looked_at(large_pages):
    fs = RemoteFileSystem(large_pages.parent)
    with pytest.raises(SourceError, match=r"large.parquet, row group 1, column 'metadata': a page has 128,0"):
        list(ParquetSource(find_parquet_files(fs, "large.parquet"), Columns()).chunks(IndexShape(2)))
    assert fs.header_reads == 1
