"""
Check the pages of a Parquet file before its rows are read: their size, and whether they have checksums.

Arrow reads a page as a whole. A page of 120 MB takes 240 MB of memory, one of 250 MB takes 490 MB, compressed or not.

Invariants:

- What the headers of pages say never replaces an error of Arrow's: a header that is not valid ends the check.
- A file on another machine costs one request for each column that has a large column chunk, and a source one more.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import pyarrow.parquet as pq

from airflow_pinecone_upsert.exceptions import SourceError
from airflow_pinecone_upsert.pipeline.read.files import FileRef
from airflow_pinecone_upsert.pipeline.read.footer import Leaf
from airflow_pinecone_upsert.pipeline.read.pages import PageHeader, page_headers

log = logging.getLogger(__name__)

MAX_PAGE_BYTES: Final = 128_000_000
"""Uncompressed. Valid records take at most 300 MB with pages of this size; writers make pages of 1 MB by default."""

_MAX_HEADERS: Final = 20_000
"""Read of a local file, in 0.2 s. The pages that one writer makes are of similar size, also in a larger file."""


def check_page_sizes(handle: Any, footer: pq.FileMetaData, leaves: Sequence[Leaf], file: FileRef) -> None:
    """
    Check that no page is too large to be held in memory.

    Only a column chunk that is larger itself can have such a page. All pages of these are checked in a local file, up to
    :data:`_MAX_HEADERS`. On another machine each of them would cost a request, so only the first page of data is checked,
    in the largest chunk of each column.

    :param handle: The open file.
    :param footer: Was checked for the columns.
    :param leaves: The columns that will be read.
    :raises SourceError: A page is too large.
    :raises StorageError: The storage does not answer.
    """
    sizes = {
        (number, leaf): footer.row_group(number).column(leaf.number).total_uncompressed_size
        for number in range(footer.num_row_groups)
        for leaf in leaves
    }
    large = [place for place, size in sizes.items() if size > MAX_PAGE_BYTES]
    if not file.is_local:
        # the last one of each column
        large = list({leaf: (number, leaf) for number, leaf in sorted(large, key=sizes.__getitem__)}.values())
    pages = (
        (number, leaf, page)
        for number, leaf in large
        for page in _pages(handle, footer.row_group(number).column(leaf.number), only_first=not file.is_local)
    )
    for number, leaf, page in islice(pages, _MAX_HEADERS):
        if page.uncompressed_bytes > MAX_PAGE_BYTES:
            raise SourceError(
                f"{file.url}, row group {number}, column {leaf.column!r}: a page has {page.uncompressed_bytes:,} bytes, "
                f"the limit is {MAX_PAGE_BYTES:,}, because Arrow holds a page in memory as a whole. Write the file again "
                "with smaller pages or row groups; in pyarrow, with data_page_size=1_000_000 and row_group_size=10_000."
            )


class MissingChecksums:
    """Logs that files have no page checksums, once however many files a source has."""

    def __init__(self) -> None:
        self._is_done = False

    def log(self, handle: Any, footer: pq.FileMetaData, leaves: Sequence[Leaf], file: FileRef) -> None:
        """
        Look at the first page of data of a file, unless an earlier file had no checksum.

        Of files on another machine only the first one with rows is looked at, because each costs a request.

        :raises StorageError: The storage does not answer.
        """
        number = next((number for number in range(footer.num_row_groups) if footer.row_group(number).num_rows), None)
        if self._is_done or number is None:
            return
        chunk = footer.row_group(number).column(leaves[0].number)
        page = next(_pages(handle, chunk, only_first=True), None)
        self._is_done = not file.is_local
        if page and not page.has_checksum:
            self._is_done = True
            log.info(
                "%s has no page checksums, so a flipped bit in it cannot be detected. To have them verified, write files "
                "with them; in pyarrow, with write_page_checksum=True.",
                file.url,
            )


def _pages(handle: Any, chunk: pq.ColumnChunkMetaData, *, only_first: bool) -> Iterator[PageHeader]:
    """
    Yield the headers of the pages of a column chunk.

    :param only_first: The first page of data, and no dictionary.
    """
    first = chunk.data_page_offset
    dictionary = chunk.dictionary_page_offset or first
    start = dictionary if 0 < dictionary < first else first
    end = min(handle.seek(0, os.SEEK_END), start + chunk.total_compressed_size)
    return islice(page_headers(handle, first, end), 1) if only_first else page_headers(handle, start, end)
