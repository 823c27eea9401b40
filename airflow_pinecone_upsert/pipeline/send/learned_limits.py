"""
Limits that are found, not guessed: how large a request may be, and how many bytes may start in a second.

Pinecone documents 2 MB a request and 50 MB/s a namespace, and not how it measures them. Its own tables of batch sizes fit
the *binary* size of a record: its id, 4 bytes for each component, 8 for each sparse entry, and its metadata
(https://docs.pinecone.io/guides/index-data/upsert-data). The JSON of a vector is about three times as long. So a run
starts at the safe reading, in which JSON is counted, and grows in steps up to the limit in binary, as long as nothing is
refused. Over gRPC nothing is learned: a message has the binary size, and a little more.

Where the records name their namespaces, the size is learned once for all of them. The rate is that of one namespace, so
each has its own; but how a server measures is the same in all, so a refusal in one of them ends the growth in all.

Pure: every transition is a function of the state and of ``now``, in monotonic seconds. Invariants:

* No limit grows beyond its ceiling, and none grows after a refusal, not even in a later try of the same run.
* Only one request at a time is larger than every request that was accepted: a refusal costs that one.
* A refusal of what was never accepted goes back to what was accepted.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from airflow_pinecone_upsert.api.limits import MAX_BYTES_PER_SECOND, MAX_DECODED_REQUEST_BYTES, MAX_REQUEST_BYTES
from airflow_pinecone_upsert.exceptions import (
    BadRequestError,
    PineconeUpsertError,
    RequestTooLargeError,
    TransportError,
)
from airflow_pinecone_upsert.pipeline.learned import Learned, LearnedLimit
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest

log = logging.getLogger(__name__)

MAX_WINDOW_BYTES: Final = 40_000_000
"""
Bytes of the requests that are in flight or pulled in advance, all of which are in memory, up to which requests grow. With
``max_concurrency=8`` a request may have 4.19 MB, with 16 it may have 2.35 MB, and with 19 or more it keeps to the safe
2 MB. With many namespaces, of which as many requests are pulled in advance, it may have 2.5 MB with 8.
"""

_SIZE_STEP: Final = 1.25
"""
Small enough that the halves of a refused request are not larger than what was accepted.
"""

_FIRST_RATE_STEP: Final = 1.5
_RATE_STEP: Final = 1.2
"""
The first step must show quickly whether the safe reading is exceeded: a bucket that holds 2 s of the allowance is empty
after 4 s at one and a half times the rate. The following ones are finer, so that the last one comes close to the ceiling.
"""

_BUCKET_S: Final = 2.5
"""
A step has worked once so much more than the safe reading allows was accepted: this many seconds' worth of it. A server
that counts in the safe way, with a bucket of at most this, would have throttled.
"""

_MIN_HOLD_S: Final = 1.5
_SAFE_HOLD_S: Final = 3.0
"""How long a step, and the safe rate before the first one, must work at least."""

_USED: Final = 0.85
"""A rate that is not used proves nothing: a step counts where at least this share of it was started."""


class RequestSize:
    """
    How many bytes the body of a request may have.

    :param accepted: To start with: a number of the user, the safe reading, or what an earlier try learned.
    :param ceiling: Up to which it may grow; by default not at all.
    :param max_binary: The binary size of the records of any request with a larger body; None for no such bound.
    :param is_final: A size was refused.
    """

    def __init__(
        self, accepted: int, ceiling: int = 0, max_binary: int | None = None, *, is_final: bool = False
    ) -> None:
        self.accepted = accepted
        self.max_binary = max_binary
        self.is_final = is_final
        self._ceiling = max(accepted, ceiling)
        self._probe: UpsertRequest | None = None

    @property
    def max_bytes(self) -> int:
        """What the next request may have: more than was accepted, where no other request tries that out."""
        if self.is_final or self._probe is not None:
            return self.accepted
        return min(self._ceiling, int(self.accepted * _SIZE_STEP))

    def made(self, request: UpsertRequest) -> None:
        """Note a request that will be sent."""
        if len(request.body) > self.accepted and not self.is_final:
            self._probe = request

    def is_probe(self, request: UpsertRequest) -> bool:
        """Return whether a request tries out a size that was never accepted."""
        return request is self._probe

    def settled(self, request: UpsertRequest, error: PineconeUpsertError | None) -> None:
        """
        Learn from an attempt.

        :param error: Why it failed; None where it was accepted.
        """
        size, is_probe = len(request.body), self.is_probe(request)
        if error is None:
            self.accepted = max(self.accepted, size) if is_probe else self.accepted
        elif isinstance(error, RequestTooLargeError):
            self._refused(request)
        elif is_probe and isinstance(error, TransportError):  # a proxy may close the connection instead of answering
            self.is_final = True
        if is_probe and (error is None or self.is_final or isinstance(error, BadRequestError)):
            self._probe = None

    def _refused(self, request: UpsertRequest) -> None:
        """
        Remember for the rest of the run that the server rejected the size of a request.

        The halves of this one are sent in any case, so where nothing of its size was accepted before, half of it is what
        the next ones may have.
        """
        size = len(request.body)
        if self.is_probe(request):
            self.is_final = True
            log.info(
                "The server rejected the size of a request of %s bytes, and has accepted %s, which is the limit from now on.",
                f"{size:,}",
                f"{self.accepted:,}",
            )
        elif len(request) > 1 and size // 2 < self.accepted:
            self.is_final = True
            self.accepted = size // 2
            log.warning(
                "The server rejected the size of a request of %s bytes: further ones have at most %s.",
                f"{size:,}",
                f"{self.accepted:,}",
            )

    @property
    def learned(self) -> LearnedLimit:
        """What a later try starts with."""
        return LearnedLimit(self.accepted, self.is_final)


class ByteRates:
    """
    How many bytes of bodies may start in a second, in each namespace.

    Invariant: memory is bounded, however many rates are created.

    :param start: What each starts with: a number of the user, the safe reading, or what an earlier try learned.
    :param safe: The safe reading, beyond which they may grow; None for rates that do not grow.
    :param max_binary: Binary bytes per second, at most, of a rate that has grown.
    :param is_final: A request was throttled, in whichever namespace.
    """

    def __init__(
        self,
        start: float,
        safe: float | None = None,
        max_binary: float = MAX_BYTES_PER_SECOND,
        *,
        is_final: bool = False,
    ) -> None:
        self.start = start
        self.safe = start if safe is None else safe
        self.max_binary = max_binary
        self.is_final = is_final
        self._grows = safe is not None
        self._accepted = Counter[float]()  # how many rates have accepted so much: a few steps, for any number of rates

    def create(self) -> ByteRate:
        """Return the rate of one more namespace."""
        self._accepted[self.start] += 1
        return ByteRate(self)

    @property
    def may_grow(self) -> bool:
        """Whether a rate may take a step."""
        return self._grows and not self.is_final

    def accepted(self, before: float, after: float) -> None:
        """Note that a namespace has accepted more than before: bytes per second."""
        self._accepted[before] -= 1
        self._accepted[after] += 1

    @property
    def learned(self) -> LearnedLimit:
        """What each rate of a later try starts with: the smallest one, because a larger one was not used everywhere."""
        rates = [rate for rate, count in self._accepted.items() if count]
        return LearnedLimit(min(rates, default=self.start), self.is_final)


class ByteRate:
    """
    How many bytes of bodies may start in a second in one namespace.

    :param rates: What it has in common with those of the other namespaces.
    """

    def __init__(self, rates: ByteRates) -> None:
        self.per_second = self._accepted = rates.start
        self.safe, self.max_binary = rates.safe, rates.max_binary
        self._rates = rates
        self._since_s: float | None = None  # when the step began
        self._units = 0.0  # that were started in it
        self._stepped_back_s = float("-inf")

    def started(self, units: float, now: float) -> None:
        """Count what is started, and take a step where the last one has worked for long enough."""
        if not self._rates.may_grow:
            self._step_back(now)
            return
        if self._since_s is None:
            self._since_s = now
        elapsed_s = now - self._since_s
        if elapsed_s >= self._hold_s():
            if self._units >= _USED * self.per_second * elapsed_s:
                self._step()
            self._since_s, self._units = now, 0.0
        self._units += units

    def _hold_s(self) -> float:
        excess = self.per_second - self.safe
        return max(_MIN_HOLD_S, _BUCKET_S * self.safe / excess) if excess > 0 else _SAFE_HOLD_S

    def _step(self) -> None:
        self._rates.accepted(self._accepted, self.per_second)
        self._accepted = self.per_second
        self.per_second *= _RATE_STEP if self.per_second > self.safe else _FIRST_RATE_STEP

    def _step_back(self, now: float) -> None:
        """Go back to what was accepted, where the last step has not worked for long enough."""
        if self.per_second > self._accepted:
            self.per_second = self._accepted
            self._stepped_back_s = now

    def throttled(self, started_s: float, now: float) -> bool:
        """
        Learn that a request was throttled.

        :param started_s: When it was started.
        :return: Whether it is explained by a step that went too far, which is taken back.
        """
        if self.per_second > self._accepted:
            log.info(
                "The server throttles at %.1f MB/s, and has accepted %.1f MB/s, which is the limit from now on.",
                self.per_second / 1e6,
                self._accepted / 1e6,
            )
        self._step_back(now)
        self._rates.is_final = True
        return started_s <= self._stepped_back_s


class LearnedLimits:
    """
    The limits of one run.

    :param options: Numbers of the user are not exceeded.
    :param earlier: What an earlier try learned; None for nothing.
    """

    def __init__(self, options: UpsertOptions, earlier: Learned | None = None) -> None:
        self._options = options
        self._earlier = earlier
        self.size = self._size()
        self._rates = self._byte_rates()

    def _size(self) -> RequestSize:
        options, earlier = self._options, self._earlier.request_bytes if self._earlier else None
        is_final = earlier is not None and earlier.is_final
        if options.max_request_bytes is not None:
            number = options.max_request_bytes
            return RequestSize(min(number, int(earlier.value)) if earlier and is_final else number)
        window_bytes = MAX_WINDOW_BYTES // (options.max_concurrency + options.max_pulled)
        ceiling = max(MAX_REQUEST_BYTES, min(MAX_DECODED_REQUEST_BYTES, window_bytes))
        if options.transport == "grpc":  # a message has the binary size, and a little more
            ceiling = MAX_REQUEST_BYTES
        learned = int(earlier.value) if earlier else MAX_REQUEST_BYTES
        accepted = min(ceiling, learned if is_final else max(MAX_REQUEST_BYTES, learned))
        return RequestSize(accepted, ceiling, MAX_REQUEST_BYTES, is_final=is_final)

    def _byte_rates(self) -> ByteRates | None:
        options, earlier = self._options, self._earlier.bytes_per_second if self._earlier else None
        if options.max_bytes_per_second is not None:
            number = options.max_bytes_per_second
            return None if number == float("inf") else ByteRates(number)
        if options.transport == "grpc":
            return ByteRates(MAX_BYTES_PER_SECOND)
        accepted = max(MAX_BYTES_PER_SECOND, earlier.value) if earlier else MAX_BYTES_PER_SECOND
        return ByteRates(accepted, MAX_BYTES_PER_SECOND, is_final=earlier is not None and earlier.is_final)

    def new_rate(self) -> ByteRate | None:
        """Return the rate of one more namespace; None without a limit."""
        return self._rates.create() if self._rates else None

    @property
    def learned(self) -> Learned:
        """What a later try starts with."""
        return Learned(self.size.learned, self._rates.learned if self._rates else None)
