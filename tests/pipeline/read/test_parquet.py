"""Parquet files: which files a path names, and how they are read."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.exceptions import RecordError, SourceError
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource

SHAPE = IndexShape(dimension=2)


def table(*ids):
    return pa.table({"id": list(ids), "values": pa.array([[1.0, 2.0]] * len(ids), pa.list_(pa.float32()))})


def files(path):
    return [Path(file.path).name for file in find_parquet_files(LocalFileSystem(), str(path))]


def chunks(source, shape=SHAPE):
    return list(source.chunks(shape))


def test_a_folder_means_its_parquet_files_in_the_order_of_their_names(index, run, write, tmp_path, upserts):
    write(table("c"), "folder/2.parquet")
    write(table("a", "b"), "folder/1.parquet")
    write(table("not read"), "folder/deeper/0.parquet")
    (tmp_path / "folder/_SUCCESS").touch()
    assert run(index, tmp_path / "folder").upserted_count == 3
    assert [request.ids for request in upserts(index)] == [("a", "b", "c")]


def test_a_pattern_means_the_files_that_match(write, tmp_path):
    for name in ("b.parquet", "a.parquet", "a.txt", "sub/c.parquet"):
        write(table("x"), name)
    assert files(tmp_path / "*.parquet") == ["a.parquet", "b.parquet"]
    assert files(tmp_path / "**/*.parquet") == ["a.parquet", "b.parquet", "c.parquet"]
    assert files(tmp_path / "[a]*") == ["a.parquet", "a.txt"]


def test_a_folder_that_spark_named_like_a_file_means_the_files_in_it(write, tmp_path):
    write(table("x"), "all/one.parquet")
    write(table("x"), "all/two.parquet/part-0.parquet")
    write(table("x"), "all/two.parquet/part-1.parquet")
    expected = ["one.parquet", "part-0.parquet", "part-1.parquet"]
    assert files(tmp_path / "all") == files(tmp_path / "all/*.parquet") == files(tmp_path / "all/**") == expected


def test_an_existing_path_with_wildcards_is_not_a_pattern(write, tmp_path):
    write(table("wanted"), "run[1]/a.parquet")
    write(table("not wanted"), "run1/b.parquet")
    assert files(tmp_path / "run[1]") == files(tmp_path / "run[1]/a.parquet") == ["a.parquet"]


def test_a_recursive_pattern_leaves_out_the_queries_of_a_dataset(index, run, write, tmp_path, caplog):
    """A task would fail at them after it had sent the documents."""
    write(table("a"), "set/documents/part-0.parquet")
    write({"vector": [[1.0, 2.0]], "top_k": [10]}, "set/queries/part-0.parquet")
    assert run(index, tmp_path / "set/**/*.parquet").upserted_count == 1
    assert f"leaves out the files in {tmp_path}/set/queries: in a dataset's layout" in caplog.text


@pytest.mark.parametrize("pattern", ["other/**/*.parquet", "set/*/*.parquet", "set/queries/**"])
def test_a_folder_named_queries_is_read_where_the_user_means_it(write, tmp_path, pattern):
    write(table("a"), "set/documents/part-0.parquet")
    write(table("b"), "set/queries/part-1.parquet")
    write(table("c"), "other/queries/part-1.parquet")
    assert "part-1.parquet" in files(tmp_path / pattern)


def test_a_missing_remote_file_says_what_to_check(write, tmp_path):
    write(table("a"), "all/1.parquet")
    fs = RemoteFileSystem(tmp_path)
    source = ParquetSource(find_parquet_files(fs, "all"), Columns())
    (tmp_path / "all/1.parquet").unlink()
    with pytest.raises(SourceError, match=r"Check the path, and that the worker has permission to read it\.$"):
        chunks(source)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.parquet", "missing.parquet does not exist. Check the path and that the upstream task wrote it"),
        ("*.csv", r"No file matches .*\*.csv. Check the pattern"),
        ("empty", r"The folder .*empty holds no \*.parquet file. .*empty/\*\*/\*.parquet"),
    ],
)
def test_the_error_for_missing_files_says_what_to_check(*, index, run, tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        run(index, tmp_path / path)
    assert not index.requests


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda path: path.write_text("id,values\n"),
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: path.write_bytes(path.read_bytes().replace(b"the only id", b"x")),
    ],
    ids=["not Parquet", "no bytes", "truncated", "bytes lost"],
)
def test_an_unreadable_file_is_named(index, run, write, upserts, corrupt):
    path = write(table("the only id"), compression="none", use_dictionary=False)
    corrupt(path)
    with pytest.raises(SourceError, match=r"records.parquet cannot be read as Parquet: .* or write it again"):
        run(index, path)
    assert not upserts(index)


def test_a_file_without_records_is_a_warning_and_a_report_of_zero(index, run, write, upserts, caplog):
    report = run(index, write(table("a").slice(0, 0)))
    assert (report.upserted_count, report.counts.requests) == (0, 0)
    assert not upserts(index)
    assert "records.parquet contains no records: nothing was upserted" in caplog.text


def test_an_empty_file_among_others_is_skipped(index, run, write, tmp_path):
    write(table(), "all/1.parquet")
    write(table("a"), "all/2.parquet")
    assert run(index, tmp_path / "all").upserted_count == 1


@pytest.mark.parametrize("row_group_size", [1, 7, 100_000])
def test_the_size_of_chunks_does_not_depend_on_the_row_groups(write, row_group_size):
    count = 5_000
    columns = {"id": range(count), "values": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(count * 1_000)), 1_000)}
    path = write({**columns, "id": pa.array(range(count))}, row_group_size=row_group_size)
    source = ParquetSource(find_parquet_files(LocalFileSystem(), str(path)), Columns())
    found = chunks(source, IndexShape(dimension=1_000))
    sizes = [len(chunk.records) for chunk in found]
    assert max(sizes) == 500  # 2 MB of float32
    assert [chunk.rows[0] for chunk in found] == list(np.cumsum([0, *sizes])[:-1])
    assert sum(sizes) == count


class CountingFileSystem(LocalFileSystem):
    """Counts the bytes that are read from it."""

    cachable = False
    bytes_read = 0

    def open(self, *args, **options):
        handle = super().open(*args, **options)
        read = handle.read

        def counted(*size):
            content = read(*size)
            self.bytes_read += len(content)
            return content

        handle.read = counted
        return handle


def test_a_large_row_group_is_read_page_by_page(write):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(0).random(5_000_000, np.float32)), 1_000)
    path = write({"id": pa.array(range(5_000)), "values": vectors}, compression="none", use_dictionary=False)
    fs = CountingFileSystem()
    for chunk in ParquetSource(find_parquet_files(fs, str(path)), Columns()).chunks(IndexShape(dimension=1_000)):
        assert len(chunk.records) == 500
        read_in_advance = fs.bytes_read - (chunk.rows[0] + 500) * 4_000
        assert read_in_advance < 0.2 * path.stat().st_size


class RemoteFileSystem(DirFileSystem):
    """Looks like a file system on another machine, and records which threads read from it."""

    protocol = "remote"
    cachable = False

    def __init__(self, folder):
        super().__init__(str(folder), LocalFileSystem())
        self.readers = set()

    def open(self, *args, **options):
        self.readers.add(threading.current_thread())
        return super().open(*args, **options)


def test_remote_files_are_read_in_another_thread(write, tmp_path):
    write(table("a", "b"), "all/1.parquet")
    write(table("c"), "all/2.parquet")
    fs = RemoteFileSystem(tmp_path)
    source = ParquetSource(find_parquet_files(fs, "all"), Columns())
    assert [chunk.records["id"].to_pylist() for chunk in chunks(source)] == [["a", "b"], ["c"]]
    assert len(fs.readers) == 1
    assert threading.current_thread() not in fs.readers


def test_only_the_columns_of_records_are_read(write):
    path = write(table("a").append_column("blob", pa.array([b"x"])))
    [chunk] = chunks(ParquetSource(find_parquet_files(LocalFileSystem(), str(path)), Columns()))
    assert chunk.records.schema.names == ["id", "values"]


def test_files_of_the_same_schema_share_it(write, tmp_path):
    """A schema of 200 columns takes 70 KB, and there may be thousands of files."""
    for name in ("1", "2"):
        write(table(name), f"all/{name}.parquet")
    write(table("3").append_column("other", pa.array([1])), "all/3.parquet")
    source = ParquetSource(find_parquet_files(LocalFileSystem(), str(tmp_path / "all")), Columns())
    chunks(source)
    one, two, three = source.schemas.values()
    assert one is two
    assert three.names == ["id", "values", "other"]


def test_rows_are_counted_per_file(index, run, write, tmp_path):
    write(table(*map(str, range(10))), "all/1.parquet")
    write(table("a", "b", ""), "all/2.parquet", row_group_size=1)
    with pytest.raises(RecordError, match=r"^id: the id is empty.*all/2.parquet, row 2 "):
        run(index, tmp_path / "all")


def test_the_later_of_two_files_with_the_same_id_wins(index, run, write, tmp_path):
    write({"id": ["a"], "values": [[1.0, 1.0]]}, "all/1.parquet")
    write({"id": ["a"], "values": [[2.0, 2.0]]}, "all/2.parquet")
    assert run(index, tmp_path / "all").upserted_count == 2
    assert index.vectors()["a"].values.tolist() == [2, 2]


def test_the_user_names_the_columns(index, run, write):
    path = write(
        {
            "key": ["a"],
            "dense": [[1.0, 2.0]],
            "lexical": [{"indices": [1], "values": [0.5]}],
            "info": ['{"n": 1}'],
            "metadata": ["not read"],
        }
    )
    run(
        index,
        path,
        id_column="key",
        values_column="dense",
        sparse_values_column="lexical",
        metadata_column="info",
    )
    found = index.vectors()["a"]
    assert (found.values.tolist(), found.sparse_indices.tolist(), found.metadata) == ([1, 2], [1], {"n": 1})


def test_a_file_that_was_deleted_is_named(index, run, write, tmp_path):
    columns = Columns()
    source = ParquetSource(find_parquet_files(LocalFileSystem(), str(write(table("a"), "gone/a.parquet"))), columns)
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(SourceError, match=r"gone/a.parquet cannot be read"):
        chunks(source)


@pytest.mark.parametrize("listed", [False, True])
def test_a_pipe_is_not_read(tmp_path, listed):
    """Opening it would block for ever, and no cancellation would be noticed."""
    os.mkfifo(tmp_path / "pipe.parquet")
    path = tmp_path if listed else tmp_path / "pipe.parquet"
    with pytest.raises(SourceError, match=r"pipe.parquet is not a regular file\. Name Parquet files"):
        find_parquet_files(LocalFileSystem(), str(path))
