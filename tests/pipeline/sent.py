"""What a request says, read as a server reads it: as JSON, or by protobuf's own parser."""

from typing import Any

import orjson

from airflow_pinecone_upsert.emulator.messages import MESSAGES, to_json
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest


def message_of(request: UpsertRequest) -> dict[str, Any]:
    """Return the fields of an upsert, in JSON's names."""
    body = b"".join(request.body)
    assert len(body) == len(request.body)
    assert bytes(request.body) == body
    if request.envelope.wire_format.transport == "rest":
        return orjson.loads(body)
    message = MESSAGES["UpsertRequest"].FromString(body)
    assert message.ByteSize() == len(body), "protobuf would write it in another way"
    return to_json(message)
