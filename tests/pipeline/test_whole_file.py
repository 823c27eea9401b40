"""Files that are written as a whole, locally and on a real S3 API: all of a file or none of it, and one of two creators."""

import threading
from pathlib import Path

import pytest
import s3fs
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.pipeline.whole_file import create_file, new_file, write_file


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """Return a file system, and a folder there that does not exist yet."""
    if request.param == "local":
        return LocalFileSystem(), str(tmp_path / "a" / "b")
    url = request.getfixturevalue("s3")
    fs = s3fs.S3FileSystem(key="k", secret="s", client_kwargs={"endpoint_url": url}, skip_instance_cache=True)
    fs.mkdir(tmp_path.name.replace("_", "-")[:60])
    return fs, f"{tmp_path.name.replace('_', '-')[:60]}/b"


def files(fs, folder):
    fs.invalidate_cache()
    return sorted(path.rpartition("/")[2] for path in fs.find(folder))


def test_a_file_is_written_and_replaced(place):
    fs, folder = place
    for content in (b"1", b"2"):
        write_file(fs, f"{folder}/x", content)
        assert fs.cat_file(f"{folder}/x") == content
    assert files(fs, folder) == ["x"]


def test_a_file_that_exists_is_not_created_again(place):
    fs, folder = place
    assert create_file(fs, f"{folder}/x", b"1")
    assert not create_file(fs, f"{folder}/x", b"2")
    assert fs.cat_file(f"{folder}/x") == b"1"
    assert files(fs, folder) == ["x"]


def test_on_object_storage_a_creation_whose_response_was_lost_counts(s3):
    fs = s3fs.S3FileSystem(key="k", secret="s", client_kwargs={"endpoint_url": s3}, skip_instance_cache=True)
    fs.mkdir("lost")
    assert create_file(fs, "lost/x", b"1")
    assert create_file(fs, "lost/x", b"1")


class AnonymousCondition(s3fs.S3FileSystem):
    """An S3 server that does not say which condition failed, as some that are not Amazon's."""

    cachable = False

    def pipe_file(self, path, value, mode="overwrite", **options):
        if mode == "create" and self.exists(path):
            raise OSError(22, "At least one of the pre-conditions you specified did not hold")
        super().pipe_file(path, value, **options)


def test_a_server_that_does_not_name_the_condition_is_understood(s3):
    fs = AnonymousCondition(key="k", secret="s", client_kwargs={"endpoint_url": s3})
    fs.mkdir("anonymous")
    assert create_file(fs, "anonymous/x", b"1")
    assert not create_file(fs, "anonymous/x", b"2")
    with pytest.raises(FileNotFoundError):
        create_file(fs, "no-such-bucket/x", b"1")


def test_of_eight_creators_one_wins(place):
    fs, folder = place
    barrier = threading.Barrier(8)
    winners = []

    def create(number):
        barrier.wait()
        if create_file(fs, f"{folder}/x", b"%d" % number):
            winners.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = winners
    assert fs.cat_file(f"{folder}/x") == b"%d" % winner
    assert files(fs, folder) == ["x"]


def test_a_large_file_is_written_in_blocks(place):
    fs, folder = place
    block = bytes(range(256)) * 4_096
    with new_file(fs, f"{folder}/x", block_bytes=5 << 20) as file:
        for _ in range(12):
            file.write(block)
    assert fs.cat_file(f"{folder}/x") == block * 12
    assert files(fs, folder) == ["x"]


def test_a_local_file_appears_when_it_is_complete(tmp_path):
    def write():
        with new_file(LocalFileSystem(), str(tmp_path / "x"), block_bytes=1) as file:
            file.write(b"1")
            assert not (tmp_path / "x").exists()
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_an_error_of_the_system(tmp_path):
    Path(tmp_path / "file").write_text("")
    for write in (write_file, create_file):
        with pytest.raises(OSError, match="file"):
            write(LocalFileSystem(), str(tmp_path / "file" / "x"), b"1")
