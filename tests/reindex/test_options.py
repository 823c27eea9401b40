"""The options of reindexing, and what of them a manifest is compared by."""

import pytest

from airflow_pinecone_upsert.exceptions import ManifestError
from airflow_pinecone_upsert.hooks.reindexing import target_of
from airflow_pinecone_upsert.reindex.manifest import Manifest
from airflow_pinecone_upsert.reindex.options import ReindexOptions

URL = "https://articles.example"
BY_RECORD = {"namespace_column": "tenant", "namespace_from_path": True}


@pytest.mark.parametrize("name", BY_RECORD)
@pytest.mark.parametrize("has_many", [True, False])
def test_a_manifest_of_one_namespace_is_not_one_of_many(local, name, has_many):
    """Their entries name records in other ways."""
    one, many = ReindexOptions.checked("articles"), ReindexOptions.checked("articles", **{name: BY_RECORD[name]})
    Manifest.open(local, target_of(URL, many if has_many else one), "a1").commit([])
    with pytest.raises(ManifestError, match=rf"another target: {name} is .* Set another manifest_path for this target"):
        Manifest.open(local, target_of(URL, one if has_many else many))


def test_a_target_says_whether_its_records_name_their_namespaces():
    assert not target_of(URL, ReindexOptions()).has_many_namespaces
    for name, value in BY_RECORD.items():
        assert target_of(URL, ReindexOptions.checked(**{name: value})).has_many_namespaces


def test_a_manifest_that_an_earlier_version_wrote_describes_the_same_target():
    """Without the options that it does not know, which are not used."""
    known = {
        "id_column",
        "values_column",
        "values_format",
        "sparse_values_column",
        "metadata_column",
        "metadata_columns",
    }
    assert set(target_of(URL, ReindexOptions()).options) == known
