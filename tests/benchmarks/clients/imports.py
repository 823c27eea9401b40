"""The import time that the public names add to a DAG file, beyond Airflow itself."""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module

_NAMES = {
    "ours": {"airflow_pinecone_upsert": ["PineconeHook", "PineconeUpsertOperator"]},
    "official": {
        "airflow.providers.pinecone.hooks.pinecone": ["PineconeHook"],
        "airflow.providers.pinecone.operators.pinecone": ["PineconeIngestOperator"],
    },
}
_HEAVY = {"pyarrow", "numpy", "httpx", "pydantic", "pandas", "fsspec", "orjson"}


def import_all(names: dict[str, list[str]]) -> None:
    """Import names as ``from module import name`` does."""
    for module, attributes in names.items():
        for attribute in attributes:
            getattr(import_module(module), attribute)


def main() -> None:
    """Import, and print how long it took."""
    import_all({"airflow.sdk": ["DAG", "BaseOperator", "BaseHook"]})
    before = set(sys.modules)
    started_s = time.perf_counter()
    import_all(_NAMES[sys.argv[1]])
    import_s = time.perf_counter() - started_s
    print(json.dumps({"import_s": import_s, "heavy": sorted(_HEAVY & (set(sys.modules) - before))}))


if __name__ == "__main__":
    main()
