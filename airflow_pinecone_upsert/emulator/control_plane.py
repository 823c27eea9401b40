"""The control plane: the description of the index. The emulator serves both planes at one URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from airflow_pinecone_upsert.emulator import limits
from airflow_pinecone_upsert.emulator.records import IndexSpec
from airflow_pinecone_upsert.emulator.responses import api_version, json_response


class ControlPlane:
    """
    The operations of the control plane.

    :param spec: The index.
    :param name: The name of the index.
    :param document_schema: The fields of an index of documents.
    """

    def __init__(self, spec: IndexSpec, name: str, document_schema: Mapping[str, Any] | None) -> None:
        self._spec = spec
        self._name = name
        self._document_schema = document_schema

    def describe_index(self, request: Request, _: bytes) -> Response:
        """Describe the index, from API version 2026-07 on by its schema."""
        name = request.path_params["name"]
        if name != self._name:
            error = {"code": "NOT_FOUND", "message": f"Resource {name} not found"}
            return json_response({"error": error, "status": 404}, status=404)
        wants_schema = api_version(request) >= limits.SCHEMA_API_VERSION
        return json_response(
            {
                "name": name,
                "host": str(request.base_url).rstrip("/"),
                "status": {"ready": True, "state": "Ready"},
                "deletion_protection": "disabled",
                **(self._schema() if wants_schema else self._vector_type()),
            }
        )

    def _schema(self) -> dict[str, Any]:
        dense = {"type": "dense_vector", "dimension": self._spec.dimension, "metric": self._spec.metric}
        vectors = {"_values": dense} if self._spec.vector_type == "dense" else {}
        fields = self._document_schema or {**vectors, "_sparse_values": {"type": "sparse_vector"}}
        deployment = {"deployment_type": "managed", "cloud": "local", "region": "local"}
        return {"schema": {"fields": fields}, "deployment": deployment}

    def _vector_type(self) -> dict[str, Any]:
        return {
            **({} if self._spec.dimension is None else {"dimension": self._spec.dimension}),
            "metric": self._spec.metric,
            "vector_type": self._spec.vector_type,
            "spec": {"serverless": {"cloud": "local", "region": "local"}},
        }
