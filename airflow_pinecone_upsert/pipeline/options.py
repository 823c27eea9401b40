"""The options of an upsert: validated once, then frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self, Unpack

from airflow_pinecone_upsert.api.limits import (
    MAX_CONCURRENCY,
    MAX_DECODED_REQUEST_BYTES,
    MAX_RECORDS_PER_REQUEST,
    MAX_REQUEST_BYTES,
)
from airflow_pinecone_upsert.exceptions import SetupError
from airflow_pinecone_upsert.pipeline import defaults
from airflow_pinecone_upsert.pipeline.namespaces import check_namespace


class CheckedOptions(BaseModel):
    """Options that are validated once, and then frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def _checked(cls, parameters: Mapping[str, object]) -> Self:
        """
        Validate what a user chose.

        :raises SetupError: Names every field that is wrong, with its value.
        """
        try:
            return cls.model_validate(parameters)
        except ValidationError as exc:
            wrong = "; ".join(
                f"{'.'.join(map(str, error['loc'])) or 'options'}: {error['msg']} (found {error['input']!r:.80})"
                for error in exc.errors()
            )
            raise SetupError(f"Invalid parameters: {wrong}.") from exc


NamespaceName = Annotated[str, AfterValidator(check_namespace)]


class Columns(CheckedOptions):
    """
    The names of a table's columns, and where else its namespace may be.

    :param id_column: Strings, integers, UUIDs, whole floats, decimals of scale 0, or UTF-8 bytes.
    :param values_column: Lists of numbers, each perhaps in a list of its own, or Spark's ``VectorUDT``; may be absent for a sparse index.
    :param values_format: ``"list"``, or ``"json"`` for texts such as ``[0.1, 0.2]``.
    :param sparse_values_column: Structs of ``indices`` and ``values``; may be absent.
    :param metadata_column: JSON strings, structs or maps; may be absent.
    :param metadata_columns: Instead of ``metadata_column``: plain columns, each one a key of the metadata.
    :param namespace_column: Strings, integers or UUIDs: the namespace of each record. Null is the namespace of the run.
    :param namespace_from_path: Instead of ``namespace_column``: the folder right below a path of files is the namespace of
        the records in it. A text is the folder that contains the folders of all namespaces, whatever the paths name.
    """

    id_column: str = defaults.ID_COLUMN
    values_column: str = defaults.VALUES_COLUMN
    values_format: Literal["list", "json"] = defaults.VALUES_FORMAT
    sparse_values_column: str = defaults.SPARSE_VALUES_COLUMN
    metadata_column: str = defaults.METADATA_COLUMN
    metadata_columns: tuple[str, ...] | None = None
    namespace_column: str | None = None
    namespace_from_path: bool | str = False

    @model_validator(mode="after")
    def _one_kind_of_metadata(self) -> Self:
        if self.metadata_columns is not None and self.is_named("metadata_column"):
            raise ValueError("metadata_column and metadata_columns exclude each other; set one of them")
        if self.metadata_columns is not None and len(set(self.metadata_columns)) < len(self.metadata_columns):
            raise ValueError("metadata_columns names a column twice")
        if self.namespace_column is not None and self.namespace_from_path:
            raise ValueError("namespace_column and namespace_from_path exclude each other; set one of them")
        return self

    @property
    def names(self) -> frozenset[str]:
        """The columns that are read where they exist."""
        metadata = (self.metadata_column,) if self.metadata_columns is None else self.metadata_columns
        namespace = () if self.namespace_column is None else (self.namespace_column,)
        return frozenset((self.id_column, self.values_column, self.sparse_values_column, *metadata, *namespace))

    @property
    def has_many_namespaces(self) -> bool:
        """Whether the records name their namespaces."""
        return self.namespace_column is not None or bool(self.namespace_from_path)

    @property
    def identity(self) -> dict[str, Any]:
        """A JSON value that differs where a record would be read in another way. What is not used is not in it."""
        unused = {name for name in ("namespace_column", "namespace_from_path") if not getattr(self, name)}
        return self.model_dump(mode="json", include=set(Columns.model_fields) - unused)

    def is_named(self, parameter: str) -> bool:
        """Return whether the user named this column, so that its absence is an error."""
        return bool(getattr(self, parameter) != type(self).model_fields[parameter].default)


class UpsertParameters(TypedDict, total=False):
    """The options that a caller may pass by name, but for the namespace. See :class:`UpsertOptions`."""

    id_column: str
    values_column: str
    values_format: Literal["list", "json"]
    sparse_values_column: str
    metadata_column: str
    metadata_columns: Sequence[str] | None
    namespace_column: str | None
    namespace_from_path: bool | str
    batch_size: int
    max_request_bytes: int | None
    max_concurrency: int
    max_requests_per_second: float | None
    max_bytes_per_second: float | None
    max_rejects: int | None
    wait_until_searchable: bool
    searchable_timeout_s: float
    transport: Literal["rest", "grpc"] | None


class UpsertOptions(Columns):
    """
    The options of an upsert: everything but its source and its index.

    :param namespace: ``""`` is the default namespace.
    :param batch_size: Records in one request, at most.
    :param max_request_bytes: Bytes of one request's body, at most. None for what the server accepts, from 2 MB on.
    :param max_concurrency: Requests in flight, at most.
    :param max_requests_per_second: Upper bound of the request rate; None removes it.
    :param max_bytes_per_second: Upper bound of the rate of body bytes. None for what the server accepts, from 50 MB/s on;
        infinity removes it.
    :param max_rejects: Records that may be rejected, over all tries; None for any number.
    :param wait_until_searchable: End only once queries see what was written.
    :param searchable_timeout_s: How long that may take, in seconds.
    :param transport: What carries the requests: ``"rest"`` JSON, ``"grpc"`` protobuf.
    """

    namespace: NamespaceName = ""
    batch_size: int = Field(default=defaults.BATCH_SIZE, ge=1, le=MAX_RECORDS_PER_REQUEST)
    max_request_bytes: int | None = Field(default=defaults.MAX_REQUEST_BYTES, ge=1_000, le=MAX_DECODED_REQUEST_BYTES)
    max_concurrency: int = Field(default=defaults.MAX_CONCURRENCY, ge=1, le=MAX_CONCURRENCY)
    max_requests_per_second: float | None = Field(default=defaults.MAX_REQUESTS_PER_SECOND, gt=0)
    max_bytes_per_second: float | None = Field(default=defaults.MAX_BYTES_PER_SECOND, gt=0)
    max_rejects: int | None = Field(default=defaults.MAX_REJECTS, ge=0)
    wait_until_searchable: bool = defaults.WAIT_UNTIL_SEARCHABLE
    searchable_timeout_s: float = Field(default=defaults.SEARCHABLE_TIMEOUT_S, gt=0, le=86_400)
    transport: Literal["rest", "grpc"] = defaults.TRANSPORT

    @property
    def only_namespace(self) -> str | None:
        """The namespace of the run; None where the records name theirs."""
        return None if self.has_many_namespaces else self.namespace

    @property
    def target(self) -> str:
        """Where the records go, for messages."""
        if self.namespace_from_path:
            return "the namespaces that its folders name"
        if self.namespace_column is not None:
            return f"the namespaces in {self.namespace_column!r}"
        return f"namespace {self.namespace!r}"

    @property
    def max_pulled(self) -> int:
        """
        Requests that are pulled in advance of what may start.

        With many namespaces so many that those of one which is throttled do not hold back the others.
        """
        return self.max_concurrency if self.has_many_namespaces else 1

    @property
    def longest_request_bytes(self) -> int:
        """Bytes of a body that is allowed in any case: a record must fit into it."""
        return MAX_REQUEST_BYTES if self.max_request_bytes is None else self.max_request_bytes

    @classmethod
    def checked(cls, namespace: str = "", **parameters: Unpack[UpsertParameters]) -> Self:
        """
        Validate what a user chose.

        :param namespace: ``""`` is the default namespace.
        :param parameters: The other fields of this class.
        :raises SetupError: Names every field that is wrong, with its value.
        """
        return cls._checked({"namespace": namespace, **parameters})
