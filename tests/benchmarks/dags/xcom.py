"""
One task returns vectors, the next one upserts them; time and memory between render and execute are recorded.

The clock stops while the XCom is pulled, because that time is the same for every operator. Memory counts from the
moment when the XCom was pulled.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.definitions.xcom_arg import PlainXComArg

_PROCESS = Path("/proc/self")
_DIMENSION = 1_536


class Recorder:
    """Records time and memory between render and execute."""

    def __init__(self) -> None:
        self._pull_s = 0.0

    def on_render(self) -> None:
        self._started_s = time.perf_counter()

    def pull(self, resolve: Any, *arguments: Any) -> Any:
        started_s = time.perf_counter()
        value = resolve(*arguments)
        self._pull_s += time.perf_counter() - started_s
        (_PROCESS / "clear_refs").write_text("5")  # reset the peak to the current size
        self._held_bytes = _status_bytes("VmRSS")
        return value

    def on_execute(self) -> None:
        elapsed_s = time.perf_counter() - self._started_s
        record = {
            "pull_s": self._pull_s,
            "gap_s": elapsed_s - self._pull_s,
            "gap_bytes": max(0, _status_bytes("VmHWM") - self._held_bytes),
        }
        Path(os.environ["BENCH_RECORD"]).write_text(json.dumps(record))


RECORDER = Recorder()
_resolve = PlainXComArg.resolve
PlainXComArg.resolve = lambda *arguments: RECORDER.pull(_resolve, *arguments)  # type: ignore[method-assign]


def _status_bytes(field: str) -> int:
    line = next(line for line in (_PROCESS / "status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def recorded(operator: type) -> type:
    """Return a subclass of an operator that records when it is rendered and executed."""

    class Recorded(operator):  # type: ignore[misc]
        def render_template_fields(self, *arguments: Any, **options: Any) -> None:
            RECORDER.on_render()
            super().render_template_fields(*arguments, **options)

        def execute(self, context: Any) -> Any:
            RECORDER.on_execute()
            return super().execute(context)

    return Recorded


def upsert(vectors: Any) -> None:
    """Add a task with the operator that is measured."""
    if os.environ["BENCH_OPERATOR"] == "ours":
        from airflow_pinecone_upsert import PineconeUpsertOperator

        recorded(PineconeUpsertOperator)(task_id="upsert", vectors=vectors)
    else:
        from airflow.providers.pinecone.operators.pinecone import PineconeIngestOperator

        recorded(PineconeIngestOperator)(task_id="upsert", input_vectors=vectors, index_name="bench", batch_size=100)


with DAG("xcom", schedule=None) as dag:

    @task(show_return_value_in_logs=False)
    def embed() -> list[dict[str, Any]]:
        import numpy as np

        matrix = np.random.default_rng(0).random((int(os.environ["BENCH_RECORDS"]), _DIMENSION), dtype=np.float32)
        return [
            {"id": f"document-{row}", "values": vector.tolist(), "metadata": {"topic": "science", "year": 2026}}
            for row, vector in enumerate(matrix)
        ]

    upsert(embed())
