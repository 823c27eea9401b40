"""Parquet files in object storage: a real S3 API, served by moto."""

from __future__ import annotations

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from moto.server import ThreadedMotoServer

from airflow_pinecone_upsert import PineconeUpsertOperator, plan_tasks
from airflow_pinecone_upsert.exceptions import SetupError, SourceError, StorageError
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.reindex.__main__ import main
from airflow_pinecone_upsert.reindex.manifest import Manifest, Target
from airflow_pinecone_upsert.storage import check_rejects_path, manifest_folder

from .dag_source import DAG_HEAD

BUCKET = "embeddings"


@pytest.fixture
def bucket(s3, monkeypatch, tmp_path):
    """Create a bucket with two Parquet files of ten records, and the Airflow connection `aws_default`."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_AWS_DEFAULT",
        f'{{"conn_type": "aws", "login": "k", "password": "s", "extra": {{"endpoint_url": "{s3}", "region_name": "us-east-1"}}}}',
    )
    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    client.create_bucket(Bucket=BUCKET)
    for name in ("a", "b"):
        table = pa.table({"id": [f"{name}{row}" for row in range(10)], "values": [np.ones(8, np.float32)] * 10})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        client.upload_file(str(tmp_path / f"{name}.parquet"), BUCKET, f"set/{name}.parquet")
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]:
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.mark.parametrize(
    ("paths", "count"),
    [
        ('"s3://aws_default@embeddings/set/a.parquet"', 10),
        ('"s3://aws_default@embeddings/set"', 20),
        ('"s3://aws_default@embeddings/set/"', 20),
        ('"s3://aws_default@embeddings/*/b*.parquet"', 10),
        ('[ObjectStoragePath("s3://embeddings/set/a.parquet", conn_id="aws_default"), "s3://aws_default@embeddings/set/b.parquet"]', 20),
    ],
)  # fmt: skip
def test_parquet_on_s3(run_dag, pinecone_index, bucket, paths, count):
    run = run_dag(DAG_HEAD + f'\n    PineconeUpsertOperator(task_id="upsert", parquet_paths={paths})')
    assert run.state == "success"
    assert run.output("upsert")["upsertedCount"] == count
    assert len(pinecone_index.vectors()) == count


def test_a_plan_of_tenants_on_s3(bucket):
    """The folder `set` is a tenant; another one has a manifest, and no files any more."""
    for tenant in ("set", "gone"):
        bucket.put_object(Bucket=BUCKET, Key=f"manifests/{tenant}/gen-000001.json", Body=b"{}")
    with pytest.raises(SetupError, match="inside of parquet_paths"):
        plan_tasks("s3://aws_default@embeddings/", manifests_path="s3://aws_default@embeddings/manifests")
    bucket.copy_object(Bucket=BUCKET, CopySource=f"{BUCKET}/set/a.parquet", Key="source/set/a.parquet")
    plan = plan_tasks("s3://aws_default@embeddings/source/", manifests_path="s3://aws_default@embeddings/manifests/")
    assert plan == [
        {
            "namespace": tenant,
            "parquet_paths": f"s3://aws_default@embeddings/source/{tenant}",
            "manifest_path": f"s3://aws_default@embeddings/manifests/{tenant}",
            "params": {"name": tenant, "records": records},
        }
        for tenant, records in (("gone", 0), ("set", 10))
    ]


def test_a_plan_packs_tenants_on_s3(bucket):
    from airflow_pinecone_upsert.storage import parquet_files

    for tenant in ("set", "__default__"):
        bucket.copy_object(Bucket=BUCKET, CopySource=f"{BUCKET}/set/a.parquet", Key=f"source/{tenant}/2026/a.parquet")
    (entry,) = plan_tasks("s3://aws_default@embeddings/source/")
    assert entry["parquet_paths"] == [f"s3://aws_default@embeddings/source/{name}" for name in ("__default__", "set")]
    files = parquet_files(entry["parquet_paths"], namespace_from_path=entry["namespace_from_path"])
    assert [file.namespace for file in files] == ["", "set"]


def test_a_missing_object_is_named(bucket):
    from airflow_pinecone_upsert.storage import parquet_files

    with pytest.raises(SourceError, match=r"s3://embeddings/set/nope\.parquet does not exist"):
        parquet_files("s3://aws_default@embeddings/set/nope.parquet")


def test_a_missing_bucket_is_named(bucket):
    from airflow_pinecone_upsert.storage import parquet_files

    with pytest.raises(SourceError, match="s3://no-such-bucket/x"):
        parquet_files("s3://aws_default@no-such-bucket/x/*.parquet")


def test_a_scheme_without_its_provider_names_the_extra():
    from airflow_pinecone_upsert.storage import parquet_files

    with pytest.raises(SetupError, match=r"pip install 'airflow-pinecone-upsert\[gcs\]'"):
        parquet_files("gs://bucket/x.parquet")


def test_an_unknown_scheme_is_named():
    from airflow_pinecone_upsert.storage import parquet_files

    with pytest.raises(
        SetupError, match=r"No file system for unknown-scheme:.*bucket/x is installed here .* Check the scheme"
    ):
        parquet_files("unknown-scheme://bucket/x")


def test_a_value_that_is_not_a_path_names_the_parameter():
    from airflow_pinecone_upsert.storage import parquet_files, rejects_folder

    with pytest.raises(SourceError, match=r"^parquet_paths holds 7 "):
        parquet_files(7)
    with pytest.raises(SourceError, match=r"^rejects_path holds 7 "):
        rejects_folder(7)
    with pytest.raises(SourceError, match=r"^manifest_path holds 7 "):
        manifest_folder(7)


@pytest.mark.parametrize("paths", [None, 7, "", ["a", None], {"a": 1}, b"x"])
def test_a_value_that_is_not_a_path_is_rejected(paths):
    from airflow_pinecone_upsert.storage import parquet_files

    with pytest.raises(SourceError):
        parquet_files(paths)


def test_a_file_that_is_named_twice_is_read_once(tmp_path):
    from airflow_pinecone_upsert.storage import parquet_files

    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "a.parquet")
    assert len(parquet_files([str(tmp_path), str(tmp_path / "a.parquet")])) == 1


@pytest.mark.parametrize("moment", ["listing", "opening", "reading"])
def test_a_storage_that_does_not_respond_is_a_storage_error(monkeypatch, moment):
    import fsspec

    from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
    from airflow_pinecone_upsert.pipeline.options import Columns
    from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
    from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"connect_timeout": 1, "read_timeout": 1, "retries": {"max_attempts": 1}}
    storage = fsspec.filesystem(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        config_kwargs=options,
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    storage.mkdir(moment)
    vectors = np.random.default_rng(0).random((5_000, 1_024), np.float32)  # more than one range request reads
    columns = {"id": [str(row) for row in range(5_000)], "values": list(vectors)}
    with storage.open(f"{moment}/a.parquet", "wb") as file:
        pq.write_table(pa.table(columns), file)

    def read():
        files = find_parquet_files(storage, f"{moment}/a.parquet")
        if moment == "opening":
            server.stop()
        for _ in ParquetSource(files, Columns()).chunks(IndexShape(1_024)):
            server.stop()

    if moment == "listing":
        server.stop()
    try:
        with pytest.raises(StorageError, match=r"/a.parquet cannot be read at the moment: .+ Check that the storage"):
            read()
    finally:
        server.stop()


def test_a_manifest_on_s3_is_shown_through_an_airflow_connection(bucket, capsys):
    folder = manifest_folder(f"s3://aws_default@{BUCKET}/manifests/articles")
    manifest = Manifest.open(folder, Target("https://articles.example", "articles"), "a1")
    manifest.append(["a"], [bytes(16)], [100])
    manifest.commit(list(manifest.entries()), {"newCount": 0})
    assert folder.url == f"s3://{BUCKET}/manifests/articles"
    assert main(["show", f"s3://aws_default@{BUCKET}/manifests/articles"]) == 0
    assert "https://articles.example" in capsys.readouterr().out


# Rejected records -------------------------------------------------------------------------------

REJECTING = (
    DAG_HEAD
    + """
    PineconeUpsertOperator(task_id="upsert", vectors=[("a", [0.5] * 8), ("bad", [0.0] * 8, {{"n": 1}})],
        max_rejects=1, rejects_path={path!r}, params={{"part": "p1"}})
    """
)


def ids_in(file):
    return pq.read_table(file)["id"].to_pylist()


def test_rejects_path_is_templated_and_the_file_can_be_upserted(run_dag, pinecone_index, tmp_path):
    run = run_dag(REJECTING.format(path=f"{tmp_path}/{{{{ params.part }}}}/{{{{ task.task_id }}}}.parquet"))
    assert run.state == "success"
    path = f"{tmp_path}/p1/upsert.parquet"
    assert run.rendered("upsert")["rejects_path"] == path
    output = run.output("upsert")
    assert (output["upsertedCount"], output["rejectedCount"], output["rejectsPaths"]) == (1, 1, [path])
    rejected = pq.read_table(path)
    fixed = rejected.set_column(rejected.schema.get_field_index("values"), "values", pa.array([[0.25] * 8]))
    pq.write_table(fixed, path)
    second_run = run_dag(DAG_HEAD + f'\n    PineconeUpsertOperator(task_id="upsert", parquet_paths="{path}")')
    assert second_run.output("upsert")["upsertedCount"] == 1
    assert pinecone_index.vectors()["bad"].metadata == {"n": 1}


@pytest.mark.parametrize("name", ["bad/", "bad.parquet"])
def test_rejects_on_s3(run_dag, pinecone_index, bucket, name):
    url = f"s3://aws_default@{BUCKET}/rejects/{{{{ params.part }}}}/{name}"
    runs = [run_dag(REJECTING.format(path=url)) for _ in range(2)]
    keys = [item["Key"] for item in bucket.list_objects_v2(Bucket=BUCKET, Prefix="rejects/p1/")["Contents"]]
    assert len(keys) == 2  # no file is overwritten
    reported = [path for run in runs for path in run.output("upsert")["rejectsPaths"]]
    assert sorted(reported) == sorted(f"s3://{BUCKET}/{key}" for key in keys)
    for key in keys:
        assert key.endswith(".parquet")
        assert ids_in(pa.BufferReader(bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read())) == ["bad"]


def test_a_failed_task_writes_its_rejects_to_s3(run_dag, bucket):
    dag = REJECTING.format(path=f"s3://aws_default@{BUCKET}/failed").replace("max_rejects=1", "max_rejects=0")
    assert run_dag(dag).state == "failed"
    [item] = bucket.list_objects_v2(Bucket=BUCKET, Prefix="failed/")["Contents"]
    assert ids_in(pa.BufferReader(bucket.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read())) == ["bad"]


def test_a_missing_bucket_for_rejects_is_named(bucket, pinecone_index, monkeypatch):
    from airflow_pinecone_upsert import PineconeUpsertOperator

    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    operator = PineconeUpsertOperator(
        task_id="upsert", vectors=[("bad", [0.0] * 8)], max_rejects=1, rejects_path="s3://aws_default@no-such-bucket/x"
    )
    final = (SetupError, AirflowFailException)  # the latter before Airflow 3.3
    with pytest.raises(final, match=r"Rejected records cannot be written to s3://no-such-bucket/x: .*Fix rejects_path"):
        operator.execute({})


@pytest.mark.parametrize(
    ("paths", "rejects"),
    [
        ("{folder}", "{folder}"),
        ("{folder}/", "{folder}/bad.parquet"),
        ("{folder}/*.parquet", "{folder}"),
        ("{folder}/**/*.parquet", "{folder}/rejects"),
        (["{folder}/a.parquet", "{folder}/rejects"], "{folder}/rejects"),
        ("{folder}/bad.parquet", "{folder}/bad.parquet"),
    ],
)
def test_rejects_are_not_written_where_the_next_run_reads(tmp_path, paths, rejects):
    given = [path.format(folder=tmp_path) for path in ([paths] if isinstance(paths, str) else paths)]
    with pytest.raises(SetupError, match=r"is inside of parquet_paths .* Name a folder elsewhere"):
        check_rejects_path(rejects.format(folder=tmp_path), given, Columns())


@pytest.mark.parametrize(
    ("paths", "rejects"),
    [
        ("{folder}/a.parquet", "{folder}"),
        ("{folder}", "{folder}/rejects"),
        ("{folder}/*.parquet", "{folder}/rejects"),
        ("{folder}/good/**/*.parquet", "{folder}/rejects"),
        ("{folder}", "s3://aws_default@bucket{folder}"),
        ("{folder}", ""),
    ],
)
def test_rejects_may_be_written_elsewhere(bucket, tmp_path, paths, rejects):
    check_rejects_path(rejects.format(folder=tmp_path), paths.format(folder=tmp_path), Columns())


def test_rejects_below_the_folders_of_namespaces_would_be_read_again(tmp_path):
    columns = Columns(namespace_from_path=True)
    with pytest.raises(SetupError, match="is inside of parquet_paths"):
        check_rejects_path(f"{tmp_path}/documents/rejects", f"{tmp_path}/documents", columns)
    check_rejects_path(f"{tmp_path}/documents-rejects", f"{tmp_path}/documents", columns)


def test_a_task_with_rejects_inside_of_its_source_fails_before_it_reads(pinecone_index, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    pq.write_table(pa.table({"id": ["a"], "values": [[0.0] * 8]}), tmp_path / "a.parquet")
    operator = PineconeUpsertOperator(
        task_id="upsert", parquet_paths=str(tmp_path), rejects_path=str(tmp_path), max_rejects=1
    )
    with pytest.raises(Exception, match="is inside of parquet_paths"):
        operator.execute({})
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
