"""What a run has learned of the server's limits: for its checkpoint, and for its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LearnedLimit:
    """
    One limit, as a later try finds it.

    :param value: What worked: bytes of a request, or bytes per second.
    :param is_final: Something was refused, so it must not grow.
    """

    value: float
    is_final: bool = False


@dataclass(frozen=True)
class Learned:
    """
    What a run has learned.

    :param request_bytes: Bytes of a request's body.
    :param bytes_per_second: Bytes of bodies per second; None without a limit.
    """

    request_bytes: LearnedLimit
    bytes_per_second: LearnedLimit | None

    def as_output(self) -> dict[str, int | None]:
        """Return it for the task's output."""
        rate = self.bytes_per_second
        return {"requestBytes": int(self.request_bytes.value), "bytesPerSecond": int(rate.value) if rate else None}

    def as_json(self) -> dict[str, Any]:
        """Return the stored form: the output, and which of its values are final."""
        limits = {"requestBytes": self.request_bytes, "bytesPerSecond": self.bytes_per_second}
        return {**self.as_output(), "final": [name for name, limit in limits.items() if limit and limit.is_final]}

    @classmethod
    def from_output(cls, value: Mapping[str, Any] | None) -> Learned | None:
        """Return what :meth:`as_output` said of another run, so that nothing of it is final; None for nothing."""
        return cls.from_json({**value, "final": []}) if value else None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Learned:
        """
        Read what :meth:`as_json` returned.

        :raises LookupError: A part is missing.
        :raises TypeError: A part has another type.
        :raises ValueError: Likewise.
        """
        final = value["final"]
        size = LearnedLimit(int(value["requestBytes"]), "requestBytes" in final)
        rate = value["bytesPerSecond"]
        return cls(size, None if rate is None else LearnedLimit(int(rate), "bytesPerSecond" in final))
