"""Options are validated once, with an error that names every field that is wrong."""

import pytest
from pydantic import ValidationError

from airflow_pinecone_upsert.exceptions import SetupError
from airflow_pinecone_upsert.pipeline.options import UpsertOptions, UpsertParameters


def test_the_defaults_are_pinecones_limits():
    options = UpsertOptions()
    assert (options.batch_size, options.max_request_bytes) == (1_000, None)
    assert (options.max_requests_per_second, options.max_bytes_per_second) == (100, None)
    assert options.names == {"id", "values", "sparse_values", "metadata"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 1_001),
        ("batch_size", "many"),
        ("max_request_bytes", 999),
        ("max_request_bytes", 4_194_305),
        ("max_concurrency", 0),
        ("max_concurrency", 65),
        ("max_requests_per_second", 0),
        ("max_bytes_per_second", -1),
        ("namespace", "é"),
        ("namespace", "a\0"),
        ("namespace", "n" * 513),
        ("id_column", None),
        ("metadata_columns", "year"),
        ("bach_size", 10),
    ],
)
def test_an_invalid_option_is_named_with_its_value(field, value):
    with pytest.raises(SetupError, match=rf"^Invalid parameters: {field}: .* \(found ") as caught:
        UpsertOptions.checked(**{field: value})
    assert repr(value)[:79] in str(caught.value)


def test_every_invalid_option_is_named_at_once():
    with pytest.raises(SetupError, match=r"batch_size: .*; max_concurrency: "):
        UpsertOptions.checked(batch_size=0, max_concurrency=0)


def test_metadata_are_one_column_or_many_but_not_both():
    with pytest.raises(SetupError, match="metadata_column and metadata_columns exclude each other"):
        UpsertOptions.checked(metadata_column="meta", metadata_columns=["year"])


def test_a_repeated_metadata_column():
    with pytest.raises(SetupError, match="metadata_columns names a column twice"):
        UpsertOptions.checked(metadata_columns=["year", "year"])


def test_none_removes_a_rate_limit():
    options = UpsertOptions.checked(max_requests_per_second=None, max_bytes_per_second=None)
    assert options.max_requests_per_second is options.max_bytes_per_second is None


def test_options_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        UpsertOptions().batch_size = 5


def test_a_column_is_named_when_it_is_not_the_default():
    assert UpsertOptions(values_column="embedding").is_named("values_column")
    assert not UpsertOptions().is_named("values_column")


def test_the_parameters_of_the_hook_are_the_options_but_for_the_namespace():
    assert set(UpsertParameters.__annotations__) == set(UpsertOptions.model_fields) - {"namespace"}
