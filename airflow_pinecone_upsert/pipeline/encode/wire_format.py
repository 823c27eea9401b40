"""
How a record is written into a request, and read again: JSON for REST, protobuf for gRPC.

Everything else of the pipeline treats an encoded record as opaque bytes. A further format is a further subclass of
:class:`WireFormat`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32] | npt.NDArray[np.float64]


class WireFormat(ABC):
    """
    A format of requests. Its instances have no state.

    An encoded request is ``head``, the encoded records with ``separator`` between them, and ``tail``.
    """

    name: ClassVar[str]
    """For messages."""

    transport: ClassVar[Literal["rest", "grpc"]]
    """What carries it."""

    head: ClassVar[bytes]
    separator: ClassVar[bytes]

    is_decimal: ClassVar[bool]
    """Numbers are written as decimal digits, which the server rounds to float32."""

    max_json_growth: ClassVar[int]
    """The JSON of metadata has at most this many bytes for each byte of the encoded record."""

    @abstractmethod
    def tail(self, namespace: str) -> bytes:
        """Return the bytes after the last record; ``""`` is the default namespace, which need not be named."""

    @abstractmethod
    def encode(
        self,
        record_id: str,
        values: Vector | None,
        sparse: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
    ) -> bytes:
        """
        Encode a record.

        :param record_id: Its id.
        :param values: float32, shape (dimension,); float64 only where ``is_decimal``.
        :param sparse: ``indices``, int64, and ``values``, float32; shape (n,).
        :param metadata: As :func:`airflow_pinecone_upsert.pipeline.encode.metadata.metadata_rows` returns it.
        :raises UnicodeError: The metadata contain text that is not valid Unicode.
        """

    @abstractmethod
    def binary_sizes(self, bodies: Sequence[bytes]) -> list[int]:
        """
        Return the binary size of encoded records, in which Pinecone seems to measure requests.

        It is the size of the id, 4 bytes for each component, 8 for each sparse entry, and the metadata as JSON
        (https://docs.pinecone.io/guides/index-data/upsert-data, the table of batch sizes). What a format cannot know of
        these it counts as longer, never as shorter.

        :param bodies: Of one index, so that dense vectors have the same number of components.
        """

    @abstractmethod
    def decode(self, body: bytes) -> Mapping[str, Any]:
        """
        Return an encoded record as it was sent.

        :return: ``id``, and those of ``values``, ``sparseValues`` and ``metadata`` that it has.
        """
