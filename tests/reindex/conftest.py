"""Folders of manifests: local ones, and in a bucket of a real S3 API, served by moto."""

import uuid

import pytest
import s3fs
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.reindex.manifest import ManifestFolder


@pytest.fixture
def local(tmp_path) -> ManifestFolder:
    return ManifestFolder(LocalFileSystem(), str(tmp_path / "manifest"))


@pytest.fixture
def bucket(s3) -> ManifestFolder:
    fs = s3fs.S3FileSystem(key="k", secret="s", client_kwargs={"endpoint_url": s3}, skip_instance_cache=True)
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    fs.mkdir(name)
    return ManifestFolder(fs, f"{name}/manifests/articles/")


@pytest.fixture(params=["local", "bucket"])
def folder(request) -> ManifestFolder:
    return request.getfixturevalue(request.param)
