"""Airflow's task state store in memory, for tests that run without Airflow's API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def checkpoint_of(store: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoint in a store."""
    return json.loads(store["resume"])


class InMemoryStateStore(dict[str, Any]):
    """
    JSON values by key that outlive a try, as in ``context["task_state_store"]`` of Airflow 3.3 and later.

    It is a dict, so that a test can read what was stored. A value is stored as JSON returns it.
    """

    def set(self, key: str, value: Any) -> None:
        """
        Store a value.

        :raises TypeError: JSON cannot hold the value.
        :raises ValueError: The value is None, which Airflow rejects.
        """
        if value is None:
            raise ValueError("Cannot set value as None")
        self[key] = json.loads(json.dumps(value))

    def delete(self, key: str) -> None:
        """Delete a value. If there is none, nothing happens."""
        self.pop(key, None)
