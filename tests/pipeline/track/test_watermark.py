"""The watermark against a plain model, and what a source that needs no sending costs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.pipeline.encode.encoder import EncodedChunk
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.position import Position, RowRange, gaps, row_ranges
from airflow_pinecone_upsert.pipeline.read.chunk import PARTS, Chunk
from airflow_pinecone_upsert.pipeline.send.learned_limits import LearnedLimits
from airflow_pinecone_upsert.pipeline.track.rejects import Rejects
from airflow_pinecone_upsert.pipeline.track.settled_rows import SettledRows
from airflow_pinecone_upsert.pipeline.track.tracker import RunTracker
from airflow_pinecone_upsert.pipeline.track.watermark import Watermark

FILES = st.lists(st.integers(1, 30), min_size=1, max_size=4)


def rows_of(sizes):
    return [(f"f{file}", row) for file, size in enumerate(sizes) for row in range(size)]


@given(FILES, st.randoms(use_true_random=False), st.integers(1, 7))
def test_the_position_is_the_first_row_that_is_not_settled(sizes, random, chunk_rows):
    """Rows are read in chunks and settled in any order, in ranges or one by one."""
    rows = rows_of(sizes)
    watermark, settled, read = Watermark(), set(), 0
    while read < len(rows) or len(settled) < len(rows):
        if read < len(rows) and random.random() < 0.5:
            origin, first = rows[read]
            stop = min(first + chunk_rows, sizes[int(origin[1:])])
            watermark.read(RowRange(origin, first, stop))
            read += stop - first
        elif pending := [number for number in range(read) if number not in settled]:
            number = random.choice(pending)
            origin, row = rows[number]
            watermark.settle(RowRange(origin, row, row + 1))
            settled.add(number)
        check(watermark, rows, settled, read)


def check(watermark: Watermark, rows, settled, read) -> None:
    if not read:
        assert watermark.position is None
        return
    first = next(number for number in range(read + 1) if number not in settled)
    before = {row for row in rows if row < tuple(watermark.position)}
    after = {(rows.origin, row) for rows in watermark.settled_after for row in range(rows.start, rows.stop)}
    assert before == set(rows[:first])
    assert before | after == {rows[number] for number in settled}
    assert not before & after


@given(FILES, st.randoms(use_true_random=False))
def test_a_resumed_watermark_continues_where_the_first_one_ended(sizes, random: Random):
    rows = rows_of(sizes)
    one = Watermark()
    for file, size in enumerate(sizes):
        one.read(RowRange(f"f{file}", 0, size))
    done = [row for row in rows if random.random() < 0.6]
    for origin, row in done:
        one.settle(RowRange(origin, row, row + 1))
    two = Watermark(one.position, one.settled_after)
    start = one.position
    for file in range(int(start.origin[1:]), len(sizes)):
        first = start.row if f"f{file}" == start.origin else 0
        two.read(RowRange(f"f{file}", first, sizes[file]))
    assert two.position == one.position
    for origin, row in rows:
        if (origin, row) not in done:
            two.settle(RowRange(origin, row, row + 1))
    assert two.position == Position(f"f{len(sizes) - 1}", sizes[-1])
    assert two.settled_after == []


@given(st.sets(st.integers(0, 40)))
def test_ranges_and_gaps_are_exact(rows):
    found = [row for part in row_ranges("f", sorted(rows)) for row in range(part.start, part.stop)]
    assert found == sorted(rows)
    missing = [row for part in gaps(RowRange("f", 0, 41), sorted(rows)) for row in range(part.start, part.stop)]
    assert missing == sorted(set(range(41)) - rows)


ROWS = 10_000_000
CHUNK_ROWS = 2_000


@dataclass
class Numbered:
    """Ten million rows, without any data."""

    identity = "numbered"
    not_resumable = None

    def share_before(self, position: Position) -> float:
        return position.row / ROWS

    def ranges(self) -> Iterator[RowRange]:
        return (RowRange("f", start, start + CHUNK_ROWS) for start in range(0, ROWS, CHUNK_ROWS))


def test_ten_million_rows_that_need_no_sending_take_no_memory_and_move_the_watermark():
    """About 5 ms a million rows; the first request stays unsettled until the end, so nothing can be forgotten early."""
    source, nothing = Numbered(), EncodedRecords.none()
    tracker = RunTracker(source, Rejects(0, None), None, 0.0, LearnedLimits(UpsertOptions()))
    empty = pa.RecordBatch.from_pydict({"id": pa.array([], pa.string())})
    first = EncodedRecords(["f"], [0], ["r0"], [b"{}"], [b""], [""])
    tracemalloc.start()
    for rows in source.ranges():
        pending = Chunk("f", [], empty, PARTS)
        tracker.read(rows, pending, EncodedChunk(first if rows.start == 0 else nothing, []))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 100_000
    state = tracker.state(0.0)
    assert (state.position, state.settled_after) == (Position("f", 0), (RowRange("f", 1, ROWS),))
    tracker._watermark.settle(RowRange("f", 0, 1))
    assert (tracker.position, tracker.share) == (Position("f", ROWS), 1.0)


def test_settled_rows_are_left_out_of_a_chunk():
    records = pa.RecordBatch.from_pydict({"id": pa.array([f"r{row}" for row in range(10, 20)])})
    chunk = Chunk("f", range(10, 20), records, PARTS, metadata=list(range(10)), objects=list("abcdefghij"))
    settled = SettledRows([RowRange("f", 0, 12), RowRange("f", 15, 18), RowRange("g", 0, 100)])
    pending = settled.pending(chunk)
    assert list(pending.rows) == [12, 13, 14, 18, 19]
    assert pending.records["id"].to_pylist() == ["r12", "r13", "r14", "r18", "r19"]
    assert (list(pending.metadata), list(pending.objects)) == ([2, 3, 4, 8, 9], list("cdeij"))
    assert SettledRows([RowRange("f", 20, 30)]).pending(chunk) is chunk
    assert len(SettledRows([RowRange("f", 0, 30)]).pending(chunk).records) == 0
