"""The options of reindexing: what they refuse, and what of them a manifest is compared by."""

import pytest

from airflow_pinecone_upsert.exceptions import SetupError
from airflow_pinecone_upsert.hooks.reindexing import target_of
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.reindex.options import ReindexOptions

BY_ROW = {"namespace_column": "tenant", "namespace_from_path": True}


@pytest.mark.parametrize("name", [name for name in BY_ROW if name in Columns.model_fields])
@pytest.mark.parametrize("more", [{}, {"dry_run": True}, {"audit": True}], ids=str)
def test_records_that_name_their_namespaces_are_refused(name, more):
    """All of them would be compared with the manifest of one namespace, and be deleted from that one."""
    with pytest.raises(
        SetupError, match=r"one namespace .* and not the namespaces .* a manifest_path for each namespace"
    ):
        ReindexOptions.checked("articles", **{name: BY_ROW[name]}, **more)


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
    assert set(target_of("https://articles.example", ReindexOptions()).options) == known
