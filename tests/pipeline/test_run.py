"""The whole pipeline over real HTTP: every fault on the way, and a report of what the server confirmed."""

import logging
import re
from random import Random

import pyarrow as pa
import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.http import USER_AGENT
from airflow_pinecone_upsert.api.limits import MAX_ATTEMPTS
from airflow_pinecone_upsert.emulator import Fault
from tests.pipeline.held import Held
from tests.state_store import InMemoryStateStore

UPSERT = "/vectors/upsert"


def faulty(index, fault, times=1):
    index.faults.next(fault, times=times, path=UPSERT)


def last_values(records):
    return {record["id"]: record["values"] for record in records}


def stored_values(index, namespace=""):
    return {record.id: record.values.tolist() for record in index.vectors(namespace).values()}


# When all goes well -----------------------------------------------------------------------------


def test_every_record_arrives_and_the_report_is_what_the_server_saw(index, run, rows, upserts):
    records = rows(25)
    report = run(index, records, batch_size=10, namespace="ns")
    assert stored_values(index, "ns") == last_values(records)
    assert sorted(request.record_count for request in upserts(index)) == [5, 10, 10]
    output = report.as_output()
    assert output.pop("durationSeconds") > 0
    assert output == {
        "upsertedCount": 25,
        "resumedCount": 0,
        "rejectedCount": 0,
        "rejectsPaths": [],
        "distinctCount": len(stored_values(index, "ns")),
        "requestCount": 3,
        "requestBytes": sum(request.body_bytes for request in upserts(index)),
        "retryCount": 0,
        "throttledCount": 0,
        "namespace": "ns",
        "indexHost": index.url,
        "lsn": index.store.lsn,
        "learned": {"requestBytes": 2_000_000, "bytesPerSecond": 50_000_000},
    }


@pytest.mark.parametrize("namespace", ["", "articles", "with space", 'quote " and \\', "n" * 512])
def test_records_go_into_their_namespace(index, run, rows, upserts, namespace):
    run(index, rows(3), namespace=namespace)
    assert len(index.vectors(namespace)) == 3
    assert upserts(index)[0].namespace == namespace


def test_no_request_exceeds_the_size_limit(index, run, rows, upserts):
    run(index, rows(500), max_request_bytes=1_000)
    sizes = [request.body_bytes for request in upserts(index)]
    assert max(sizes) <= 1_000
    assert sorted(sizes)[1] > 900  # all but the last are nearly full


def test_requests_are_http_1_1_and_name_the_client(index, run, rows):
    run(index, rows(1))
    assert [request.path for request in index.requests] == ["/describe_index_stats", UPSERT]
    for request in index.requests:
        assert request.http_version == "1.1"
        assert request.user_agent == USER_AGENT
        assert request.headers["x-pinecone-api-version"] == "2025-04"
        assert request.headers["content-type"] == "application/json"
        assert request.headers.get("connection") == "keep-alive"


@pytest.mark.parametrize("window", [1, 3])
def test_no_more_requests_are_in_flight_than_allowed(index, run, rows, window):
    faulty(index, Held(Fault.stall(0.05), until=lambda: index.faults.pending <= 10 - window), times=10)
    run(index, rows(30), batch_size=1, max_concurrency=window, max_requests_per_second=None)
    assert index.max_in_flight == window


def test_an_index_whose_dimension_is_forbidden_is_written_unchecked(index, run, rows, caplog):
    index.faults.next(Fault.status(403, "forbidden"), path="/describe_index_stats")
    assert run(index, rows(2)).upserted_count == 2
    assert "The key may not read the index's dimension" in caplog.text
    index.faults.next(Fault.status(403, "forbidden"), path="/describe_index_stats")
    with pytest.raises(exceptions.RecordError, match="Vector dimension 3 does not match the dimension of the index 2"):
        run(index, [{"id": "a", "values": [1.0, 2.0, 3.0]}])


def test_nothing_is_sent_if_host_or_key_is_wrong(index, run, rows, upserts):
    index.faults.next(Fault.body(401, b"Invalid API Key"), path="/describe_index_stats")
    with pytest.raises(exceptions.AuthenticationError, match="Invalid API Key"):
        run(index, rows(2))
    assert not upserts(index)


def test_the_log_does_not_contain_the_key(pinecone_index_factory, run, rows, caplog):
    caplog.set_level(logging.DEBUG)
    index = pinecone_index_factory(dimension=2, api_key="pcsk_very-secret")
    faulty(index, Fault.status(429, "not so fast, pcsk_very-secret"))
    faulty(index, Fault.body(401, b"pcsk_very-secret is no key"))
    with pytest.raises(exceptions.AuthenticationError) as caught:
        run(index, rows(2))
    assert "not so fast" in caplog.text
    assert "very-secret" not in caplog.text + str(caught.value) + repr(caught.value)


# Transient failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault.status(status) for status in (408, 429, 500, 502, 503, 504, 599)),
        Fault.status(429, "You've reached the max upsert size limit per second for index storage-quota"),
        Fault.status(429, headers={"Retry-After": "0"}),
        Fault.status(503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Fault.status(503, headers={"Retry-After": "soon"}),
        Fault.body(502, b"<html>Bad Gateway</html>", "text/html"),
        Fault.reset(),
        Fault.lost_ack(),
        Fault.short_count(3),
        Fault.short_count(0),
        Fault.body(200, b"{}", "application/json"),  # which confirms no record
    ],
    ids=repr,
)
def test_transient_failures_are_retried_with_the_same_bytes(index, run, rows, upserts, fault):
    faulty(index, fault, times=2)
    report = run(index, rows(5))
    assert (report.upserted_count, report.counts.requests, report.counts.retries) == (5, 3, 2)
    assert len({(request.ids, request.body_bytes) for request in upserts(index)}) == 1
    assert len(index.vectors()) == 5


def test_a_warning_names_the_rows_of_the_request(index, run, rows, caplog):
    faulty(index, Fault.status(503))
    faulty(index, Fault.body(413, b""))
    run(index, rows(5))
    assert "retrying in 0.0 s: [XCom, rows 0 to 4] http" in caplog.text
    assert "splitting it: [XCom, rows 0 to 4] http" in caplog.text


def test_throttled_requests_are_counted(index, run, rows):
    faulty(index, Fault.status(429), times=2)
    faulty(index, Fault.status(503))
    assert run(index, rows(1)).counts.throttled == 2


def test_no_answer_in_time_is_retried(index, run, rows):
    faulty(index, Fault.stall(60.0))
    report = run(index, rows(5), timeout_s=0.3)
    assert (report.upserted_count, report.counts.retries) == (5, 1)


def test_a_failure_of_all_attempts_has_numbers_and_cause(index, run, rows, upserts):
    faulty(index, Fault.status(503, "still starting"), times=MAX_ATTEMPTS)
    with pytest.raises(exceptions.IncompleteUpsertError) as caught:
        run(index, rows(5))
    assert len(upserts(index)) == MAX_ATTEMPTS
    assert isinstance(caught.value.__cause__, exceptions.ServerError)
    message = str(caught.value)
    assert re.fullmatch(
        rf"{index.url} answered 503 \(.*“still starting”\)\. .*try again later\. \[XCom, rows 0 to 4\] "
        r"0 records are confirmed, 5 are not \(failed requests: 1\); nothing after them was sent\.",
        message,
    )
    assert run.report.counts.requests == MAX_ATTEMPTS


# Requests that are too large ------------------------------------------------------------------------------


def test_a_request_that_is_too_large_is_split_until_it_fits(pinecone_index_factory, run, rows, upserts):
    index = pinecone_index_factory(dimension=2, max_request_bytes=500)
    report = run(index, rows(100))
    assert report.upserted_count == len(index.vectors()) == 100
    assert max(request.body_bytes for request in upserts(index) if request.status == 200) <= 500
    assert report.counts.retries == report.counts.requests - 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault.body(413, b""),
        Fault.status(400, "Request size 3MB exceeds the maximum supported size of 2MB"),
        Fault.status(400, "Error, decoded message length too large: found 5 bytes, the limit is: 4194304 bytes"),
    ],
    ids=repr,
)
def test_every_response_that_says_too_large_splits(index, run, rows, upserts, fault):
    faulty(index, fault)
    assert run(index, rows(9)).upserted_count == 9
    assert sorted(request.record_count for request in upserts(index)) == [4, 5, 9]


def test_a_record_that_is_too_large_alone_fails(index, run, rows):
    faulty(index, Fault.body(413, b""), times=3)
    with pytest.raises(
        exceptions.RecordError, match=r"^record: the server rejects .* 413.* XCom, row 0 .*, id 'r0'\.$"
    ):
        run(index, rows(3), max_concurrency=1)
    assert run.report.upserted_count == len(index.vectors()) == 0


# Final errors ----------------------------------------------------------------------------------

MONTHLY = "You've reached your write unit limit for the current month (2000000). To continue writing data, upgrade."


@pytest.mark.parametrize(
    ("status", "message", "kind", "remedy"),
    [
        (401, "Invalid API Key", exceptions.AuthenticationError, "Check the API key"),
        (403, "Forbidden", exceptions.AuthenticationError, "Check the API key"),
        (403, "You've reached the max storage allowed", exceptions.QuotaExceededError, "Raise the plan's quota"),
        (404, "Not Found", exceptions.NotFoundError, "Check the index host"),
        (429, MONTHLY, exceptions.QuotaExceededError, "waiting does not help"),
        (
            400,
            "This index has a document schema, so writes must go through the documents API",
            exceptions.UnsupportedIndexError,
            "Name an index that holds vectors",
        ),
    ],
)
def test_a_final_error_fails_at_once_with_the_servers_words(
    *, index, run, rows, upserts, status, message, kind, remedy
):
    faulty(index, Fault.status(status, message))
    with pytest.raises(kind) as caught:
        run(index, rows(50), batch_size=5, max_concurrency=1)
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert remedy in str(caught.value)
    assert caught.value.response.status == status
    assert len(upserts(index)) == 1


def test_a_redirect_is_not_followed(index, run, rows, upserts):
    faulty(index, Fault.status(307, "elsewhere", headers={"Location": index.url}))
    with pytest.raises(exceptions.SetupError, match="A redirect is not followed"):
        run(index, rows(1))
    assert len(upserts(index)) == 1


@pytest.mark.parametrize("status", [402, 407, 418, 431, 451])
def test_a_status_that_blames_no_record_costs_one_request(index, run, rows, upserts, status):
    faulty(index, Fault.status(status, "PAYMENT REQUIRED"), times=100)
    with pytest.raises(exceptions.SetupError, match="PAYMENT REQUIRED"):
        run(index, rows(50), max_rejects=None)
    assert len(upserts(index)) == 1
    assert run.report.rejected_count == 0


def test_a_run_of_which_the_server_takes_no_record_never_succeeds(index, run, write, upserts):
    path = write({"id": ["a", "b", "c"], "values": [[1.0, 2.0]] * 3})
    state = InMemoryStateStore()
    for _ in range(2):  # also not once it is cleared, and has nothing left to read
        index.faults.next(Fault.status(400, "no such thing"), times=5, path=UPSERT)
        with pytest.raises(
            exceptions.BadRequestError,
            match=r"^The server rejected every record that it was sent \(3\): .*no such thing",
        ):
            run(index, path, max_rejects=None, max_concurrency=1, state=state)
        assert (run.report.upserted_count, run.report.rejected_count) == (0, 3)
    assert len(upserts(index)) == 10


def test_a_server_that_takes_nothing_costs_few_requests(index, run, upserts):
    index.faults.next(Fault.status(400, "no such thing"), times=1_000, path=UPSERT)
    records = ({"id": f"r{n}", "values": [1.0, n]} for n in range(20_000))
    with pytest.raises(
        exceptions.BadRequestError,
        match=r"The server has rejected the first 19 requests, and accepted none: .*no such thing",
    ):
        run(index, records, max_rejects=None)
    assert len(upserts(index)) <= 20
    assert run.report.upserted_count == 0


def test_sparse_vectors_are_not_sent_to_an_index_that_takes_none(pinecone_index_factory, run, upserts):
    index = pinecone_index_factory(dimension=2, metric="cosine")
    record = {"id": "a", "values": [1.0, 2.0], "sparse_values": {"indices": [1], "values": [0.5]}}
    with pytest.raises(
        exceptions.SetupError,
        match="XCom has sparse vectors in 'sparse_values', and the index has the metric cosine: only an index with the",
    ):
        run(index, [record], max_rejects=None)
    assert upserts(index) == []
    assert run(index, [record | {"sparse_values": None}]).upserted_count == 1


# Counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "attempts", "confirmed", "words"),
    [
        (Fault.short_count(3), MAX_ATTEMPTS, 3, "The server confirmed 3 of 5 records"),
        (Fault.short_count(0), MAX_ATTEMPTS, 0, "The server confirmed 0 of 5 records"),
        (Fault.body(200, b"{}", "application/json"), MAX_ATTEMPTS, 0, "The server confirmed 0 of 5 records"),
        (Fault.body(200, b'{"upsertedCount":99}', "application/json"), 1, 0, "The server confirmed 99 of 5 records"),
        (Fault.body(200, b'{"upsertedCount":-5}', "application/json"), 1, 0, "not with a Pinecone response"),
        (Fault.body(200, b"<html>Sign in</html>", "text/html"), 1, 0, "<html>Sign in</html>"),
        (Fault.body(204, b""), 1, 0, "not with a Pinecone response"),
    ],
    ids=repr,
)
def test_an_answer_that_does_not_confirm_every_record_fails(  # noqa: PLR0917
    index, run, rows, upserts, fault, attempts, confirmed, words
):
    faulty(index, fault, times=attempts)
    with pytest.raises(exceptions.IncompleteUpsertError) as caught:
        run(index, rows(10), batch_size=5, max_concurrency=1)
    message = str(caught.value)
    assert f"{confirmed} records are confirmed, {5 - confirmed} are not (failed requests: 1)" in message
    assert words in message
    assert run.report.upserted_count == confirmed
    assert len(upserts(index)) == attempts


def test_only_the_first_causes_of_many_failures_are_shown(index, run, rows):
    fault = Fault.body(200, b'{"upsertedCount":99}', "application/json")
    faulty(index, Held(fault, until=lambda: not index.faults.pending), times=5)
    with pytest.raises(
        exceptions.IncompleteUpsertError,
        match=r" … and 2 more\. 0 records are confirmed, 50 are not \(failed requests: 5\); nothing after .* sent\.$",
    ):
        run(index, rows(50), batch_size=10, max_concurrency=5)


RECORD = {"id": "a", "values": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("records", "described"),
    [
        ([RECORD], "1 record from XCom"),
        ([("a", [1.0, 2.0])] * 1_200, "1,200 records from XCom"),
        (pa.table({"id": ["a"] * 3, "values": [[1.0, 2.0]] * 3}), "3 records from XCom"),
        (("a", [1.0, 2.0]), "XCom"),
        ([[RECORD], [RECORD]], "XCom"),
        ((RECORD for _ in range(3)), "XCom"),
    ],
)
def test_the_log_begins_with_the_number_of_records_where_it_is_known(index, run, caplog, records, described):
    caplog.set_level(logging.INFO)
    run(index, records, namespace="df")
    assert f"Upserting {described} into namespace 'df' of {index.url}." in caplog.messages


def test_the_log_says_what_vectors_the_index_takes(index, sparse_index, run, caplog):
    caplog.set_level(logging.INFO)
    run(index, [])
    run(sparse_index, [])
    assert f"{index.url} contains 0 records, dimension 2." in caplog.messages
    assert f"{sparse_index.url} contains 0 records, sparse vectors." in caplog.messages


def test_the_log_ends_with_one_sentence_for_people(index, run, rows, caplog):
    caplog.set_level("INFO")
    run(index, rows(1_462), namespace="articles")
    assert re.fullmatch(
        r"Upserted 1,462 records into 'articles' in \d+\.\d s \(2 requests, 0\.1 MB, 0 retries\)\.", caplog.messages[-1]
    )


@pytest.mark.parametrize(
    "exception", [exceptions.SourceError("broken"), ZeroDivisionError("a bug in the user's generator")]
)
def test_an_error_of_the_source_waits_for_the_requests_in_flight(index, run, rows, caplog, exception):
    def records():
        yield from rows(2_000)
        raise exception

    faulty(index, Fault.stall(0.2), times=2)
    with pytest.raises(type(exception)) as caught:
        run(index, records())
    assert caught.value is exception
    assert len(index.vectors()) == 2_000
    assert run.report.upserted_count == 2_000
    assert "The server has confirmed 2,000 records so far" in caplog.text


def test_more_rejects_of_earlier_tries_than_are_allowed_fail_before_anything_is_sent(index, run, write, upserts):
    path = write({"id": ["a", None, "b", "c"], "values": [[1.0, 2.0]] * 4})
    one_by_one = {"state": InMemoryStateStore(), "batch_size": 1, "max_concurrency": 1}
    index.faults.next(Fault.stall(0.0), times=2, path=UPSERT)
    faulty(index, Fault.status(401, "Invalid API Key"))
    with pytest.raises(exceptions.AuthenticationError):
        run(index, path, max_rejects=1, **one_by_one)
    sent = len(upserts(index))
    with pytest.raises(
        exceptions.SetupError, match="1 records were rejected by earlier tries: more than max_rejects, 0,"
    ):
        run(index, path, max_rejects=0, **one_by_one)
    assert len(upserts(index)) == sent == 3
    report = run(index, path, max_rejects=1, **one_by_one)
    assert (report.upserted_count, report.resumed_count, report.rejected_count) == (3, 2, 1)


FAULTS = [
    Fault.status(429, headers={"Retry-After": "0"}),
    Fault.status(500),
    Fault.status(503),
    Fault.reset(),
    Fault.lost_ack(),
]
DELAYS = [Fault.stall(0.0), Fault.stall(0.01), Fault.stall(0.03)]


@pytest.mark.parametrize("seed", range(15))
def test_the_last_record_of_each_id_in_the_source_is_stored_after_any_faults(index, run, upserts, seed):
    random = Random(seed)  # noqa: S311 - a seeded schedule
    records = [{"id": str(random.randrange(30)), "values": [1.0, float(row)]} for row in range(150)]
    # One fault less than there are attempts, so that no request can use up its attempts.
    script = random.choices(FAULTS, k=MAX_ATTEMPTS - 1) + random.choices(DELAYS, k=30)
    for fault in random.sample(script, len(script)):
        faulty(index, fault)
    report = run(index, records, batch_size=random.choice([1, 3, 10]), max_requests_per_second=None)
    assert stored_values(index) == last_values(records)
    assert report.upserted_count == len(records)
    assert report.counts.requests == len(upserts(index))
    assert report.counts.request_bytes == sum(request.body_bytes for request in upserts(index))
