"""How files are divided among tasks."""

from __future__ import annotations

from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.pipeline.read.files import FileRef
from airflow_pinecone_upsert.pipeline.shares import divide

FS = LocalFileSystem()


def folders_of(sizes):
    return {
        f"f{folder:04d}": [
            FileRef(FS, f"/f{folder:04d}/{n}", f"/f{folder:04d}/{n}", size) for n, size in enumerate(files)
        ]
        for folder, files in enumerate(sizes)
    }


def bytes_of(shares):
    return [sum(piece.size for piece in share) for share in shares]


@given(
    st.lists(st.lists(st.integers(0, 5_000), min_size=1, max_size=8), min_size=1, max_size=30),
    st.integers(1, 20),
    st.integers(1, 20_000),
)
def test_every_file_is_in_one_share_and_the_shares_are_even(sizes, max_tasks, target_bytes):
    folders = folders_of(sizes)
    shares = divide(folders, max_tasks, target_bytes)
    assert 1 <= len(shares) <= max_tasks
    divided = [file.path for share in shares for piece in share for file in piece.files]
    assert sorted(divided) == sorted(file.path for files in folders.values() for file in files)
    for share in shares:
        assert [piece.folder for piece in share] == sorted({piece.folder for piece in share})
        for piece in share:
            assert piece.is_whole == (len(piece.files) == len(folders[piece.folder]))
    size = 1.1 * max(target_bytes, 4 * sum(bytes_of(shares)) / max_tasks)
    heaviest = max(max(file.size, 1) for files in folders.values() for file in files)
    assert max(bytes_of(shares)) <= 2 * size + heaviest
    assert bytes_of(shares) == sorted(bytes_of(shares), reverse=True)
    assert divide(dict(reversed(folders.items())), max_tasks, target_bytes) == shares


def test_five_thousand_small_folders_share_a_hundred_tasks():
    shares = divide(folders_of([[1_000_000 + n % 7 * 200_000] for n in range(5_000)]), 100, 1_000_000)
    assert len(shares) == 100
    assert max(bytes_of(shares)) <= 1.05 * min(bytes_of(shares))


def test_a_large_folder_is_split_and_small_ones_are_not():
    shares = divide(folders_of([[100] * 40, [100], [100]]), 10, 1_000)
    assert [[piece.folder for piece in share] for share in shares] == [["f0000"]] * 4 + [["f0001", "f0002"]]
    assert bytes_of(shares) == [1_000] * 4 + [200]


def test_ten_thousand_files_of_one_folder():
    shares = divide(folders_of([[10_000_000] * 10_000]), 100, 1 << 20)
    assert len(shares) == 100
    assert {*bytes_of(shares)} == {1_000_000_000}
