"""The whole pipeline over real HTTP: what goes wrong on the way, and that the report is what the server confirmed."""

import logging
import pickle
from random import Random

import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.client import USER_AGENT, ClientSettings, IndexClient
from airflow_pinecone_upsert.api.limits import MAX_ATTEMPTS
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.run import upsert

from .held import Held

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
        "requestCount": 3,
        "requestBytes": sum(request.body_bytes for request in upserts(index)),
        "retryCount": 0,
        "throttledCount": 0,
        "namespace": "ns",
        "indexHost": index.url,
    }


@pytest.mark.parametrize("namespace", ["", "articles", "with space", 'quote " and \\', "n" * 512])
def test_records_go_into_their_namespace(index, run, rows, upserts, namespace):
    run(index, rows(3), namespace=namespace)
    assert len(index.vectors(namespace)) == 3
    assert upserts(index)[0].namespace == namespace


def test_no_request_is_larger_than_it_may_be(index, run, rows, upserts):
    run(index, rows(500), max_request_bytes=1_000)
    sizes = [request.body_bytes for request in upserts(index)]
    assert max(sizes) <= 1_000
    assert sorted(sizes)[1] > 900  # all but the last are as good as full


def test_requests_are_http_1_1_with_our_own_name(index, run, rows):
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


def test_an_index_whose_dimension_the_key_may_not_read_is_written_unchecked(index, run, rows, caplog):
    index.faults.next(Fault.status(403, "forbidden"), path="/describe_index_stats")
    assert run(index, rows(2)).upserted_count == 2
    assert "The key may not read the index's dimension" in caplog.text
    index.faults.next(Fault.status(403, "forbidden"), path="/describe_index_stats")
    with pytest.raises(exceptions.RecordError, match="Vector dimension 3 does not match the dimension of the index 2"):
        run(index, [{"id": "a", "values": [1.0, 2.0, 3.0]}])


def test_nothing_is_sent_where_host_or_key_is_wrong(index, run, rows, upserts):
    index.faults.next(Fault.body(401, b"Invalid API Key"), path="/describe_index_stats")
    with pytest.raises(exceptions.AuthenticationError, match="Invalid API Key"):
        run(index, rows(2))
    assert not upserts(index)


def test_the_key_is_in_no_line_of_the_log(pinecone_index_factory, run, rows, caplog):
    caplog.set_level(logging.DEBUG)
    index = pinecone_index_factory(dimension=2, api_key="pcsk_very-secret")
    faulty(index, Fault.status(429, "not so fast, pcsk_very-secret"))
    faulty(index, Fault.body(401, b"pcsk_very-secret is no key"))
    with pytest.raises(exceptions.AuthenticationError) as caught:
        run(index, rows(2))
    assert "not so fast" in caplog.text
    assert "very-secret" not in caplog.text + str(caught.value) + repr(caught.value)


# What passes ------------------------------------------------------------------------------------


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
    ],
    ids=repr,
)
def test_what_passes_is_sent_again_with_the_same_bytes(index, run, rows, upserts, fault):
    faulty(index, fault, times=2)
    report = run(index, rows(5))
    assert (report.upserted_count, report.request_count, report.retry_count) == (5, 3, 2)
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
    assert run(index, rows(1)).throttled_count == 2


def test_no_answer_in_time_is_tried_again(index, run, rows):
    faulty(index, Fault.stall(60.0))
    report = run(index, rows(5), timeout_s=0.3)
    assert (report.upserted_count, report.retry_count) == (5, 1)


def test_what_does_not_pass_within_all_tries_fails_with_numbers_and_cause(index, run, rows, upserts):
    faulty(index, Fault.status(503, "still starting"), times=MAX_ATTEMPTS)
    with pytest.raises(exceptions.IncompleteUpsertError) as caught:
        run(index, rows(5))
    assert len(upserts(index)) == MAX_ATTEMPTS
    assert isinstance(caught.value.__cause__, exceptions.ServerError)
    message = str(caught.value)
    assert message.startswith("0 records are confirmed, 5 are not")
    assert "[XCom, rows 0 to 4]" in message
    assert "still starting" in message
    assert caught.value.report["requestCount"] == MAX_ATTEMPTS


# What is too large ------------------------------------------------------------------------------


def test_what_the_server_finds_too_large_is_split_until_it_fits(pinecone_index_factory, run, rows, upserts):
    index = pinecone_index_factory(dimension=2, max_request_bytes=500)
    report = run(index, rows(100))
    assert report.upserted_count == len(index.vectors()) == 100
    assert max(request.body_bytes for request in upserts(index) if request.status == 200) <= 500
    assert report.retry_count == report.request_count - 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault.body(413, b""),
        Fault.status(400, "Request size 3MB exceeds the maximum supported size of 2MB"),
        Fault.status(400, "Error, decoded message length too large: found 5 bytes, the limit is: 4194304 bytes"),
    ],
    ids=repr,
)
def test_every_way_to_say_too_large_splits(index, run, rows, upserts, fault):
    faulty(index, fault)
    assert run(index, rows(9)).upserted_count == 9
    assert sorted(request.record_count for request in upserts(index)) == [4, 5, 9]


def test_a_record_that_is_too_large_by_itself_fails(index, run, rows):
    faulty(index, Fault.body(413, b""), times=3)
    with pytest.raises(
        exceptions.RecordError, match=r"XCom, row 0 .*, id 'r0', record: the server rejects .* 413"
    ) as caught:
        run(index, rows(3), max_concurrency=1)
    assert caught.value.report["upsertedCount"] == len(index.vectors()) == 0


# What is final ----------------------------------------------------------------------------------

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
def test_what_is_final_fails_at_once_with_the_servers_words(
    *, index, run, rows, upserts, status, message, kind, remedy
):
    faulty(index, Fault.status(status, message))
    with pytest.raises(kind) as caught:
        run(index, rows(50), batch_size=5, max_concurrency=1)
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert remedy in str(caught.value)
    assert caught.value.answer.status == status
    assert len(upserts(index)) == 1


def test_a_redirect_is_not_followed(index, run, rows, upserts):
    faulty(index, Fault.status(307, "elsewhere", headers={"Location": index.url}))
    with pytest.raises(exceptions.SetupError, match="A redirect is not followed"):
        run(index, rows(1))
    assert len(upserts(index)) == 1


# The truth --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "confirmed", "words"),
    [
        (Fault.short_count(3), 3, "The server confirmed 3 of 5 records"),
        (Fault.short_count(0), 0, "The server confirmed 0 of 5 records"),
        (Fault.body(200, b'{"upsertedCount":99}', "application/json"), 0, "The server confirmed 99 of 5 records"),
        (Fault.body(200, b"{}", "application/json"), 0, "The server confirmed 0 of 5 records"),
        (Fault.body(200, b'{"upsertedCount":-5}', "application/json"), 0, "not with a Pinecone response"),
        (Fault.body(200, b"<html>Sign in</html>", "text/html"), 0, "<html>Sign in</html>"),
        (Fault.body(204, b""), 0, "not with a Pinecone response"),
    ],
    ids=repr,
)
def test_an_answer_that_does_not_confirm_every_record_fails(*, index, run, rows, upserts, fault, confirmed, words):
    faulty(index, fault)
    with pytest.raises(exceptions.IncompleteUpsertError) as caught:
        run(index, rows(10), batch_size=5, max_concurrency=1)
    message = str(caught.value)
    assert f"{confirmed} records are confirmed, {5 - confirmed} are not (failed requests: 1)" in message
    assert words in message
    assert caught.value.report["upsertedCount"] == confirmed
    assert len(upserts(index)) == 1


def test_the_causes_of_many_failures_are_cut_short(index, run, rows):
    faulty(index, Held(Fault.short_count(0), until=lambda: not index.faults.pending), times=5)
    with pytest.raises(
        exceptions.IncompleteUpsertError,
        match=r"^0 records are confirmed, 50 are not \(failed requests: 5\).* … and 2 more\.$",
    ):
        run(index, rows(50), batch_size=10, max_concurrency=5)


def test_a_report_travels_with_a_pickled_error(index, run, rows):
    faulty(index, Fault.short_count(0))
    with pytest.raises(exceptions.IncompleteUpsertError) as caught:
        run(index, rows(5))
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (str(copy), copy.report) == (str(caught.value), caught.value.report)
    assert copy.report["requestCount"] == 1


@pytest.mark.parametrize(
    "exception", [exceptions.SourceError("broken"), ZeroDivisionError("a bug in the user's generator")]
)
def test_an_error_of_the_source_waits_for_what_is_in_flight(index, run, rows, exception):
    def records():
        yield from rows(2_000)
        raise exception

    faulty(index, Fault.stall(0.2), times=2)
    with pytest.raises(type(exception)) as caught:
        run(index, records())
    assert caught.value is exception
    assert len(index.vectors()) == 2_000
    if isinstance(exception, exceptions.PineconeUpsertError):
        assert exception.report["upsertedCount"] == 2_000


class Store(dict):
    """What outlives a try."""

    set = dict.__setitem__
    delete = dict.pop


def test_a_retry_that_tolerates_less_than_is_set_aside_already_fails_before_it_sends(index, write, upserts):
    path = write({"id": ["a", None, "b", "c"], "values": [[1.0, 2.0]] * 4})
    store = Store()

    def run(max_rejects):
        options = UpsertOptions.checked(max_rejects=max_rejects, batch_size=1, max_concurrency=1)
        source = ParquetSource(find_parquet_files(LocalFileSystem(), str(path)), options)
        with IndexClient(index.url, ClientSettings(api_key=index.api_key)) as client:
            return upsert(source, client, options, state=store)

    index.faults.next(Fault.stall(0.0), times=2, path=UPSERT)
    faulty(index, Fault.short_count(0))
    with pytest.raises(exceptions.IncompleteUpsertError):
        run(max_rejects=1)
    sent = len(upserts(index))
    with pytest.raises(
        exceptions.SetupError, match="1 records were rejected by earlier tries: more than max_rejects, 0,"
    ):
        run(max_rejects=0)
    assert len(upserts(index)) == sent == 3
    assert run(max_rejects=1).as_output().items() >= {"upsertedCount": 3, "resumedCount": 2, "rejectedCount": 1}.items()


FAULTS = [
    Fault.status(429, headers={"Retry-After": "0"}),
    Fault.status(500),
    Fault.status(503),
    Fault.reset(),
    Fault.lost_ack(),
]
DELAYS = [Fault.stall(0.0), Fault.stall(0.01), Fault.stall(0.03)]


@pytest.mark.parametrize("seed", range(15))
def test_the_last_record_of_each_id_in_the_source_stands_whatever_went_wrong(index, run, upserts, seed):
    random = Random(seed)  # noqa: S311 - a seeded schedule
    records = [{"id": str(random.randrange(30)), "values": [1.0, float(row)]} for row in range(150)]
    # One fault less than there are tries, so that no batch can use its tries up.
    script = random.choices(FAULTS, k=MAX_ATTEMPTS - 1) + random.choices(DELAYS, k=30)
    for fault in random.sample(script, len(script)):
        faulty(index, fault)
    report = run(index, records, batch_size=random.choice([1, 3, 10]), max_requests_per_second=None)
    assert stored_values(index) == last_values(records)
    assert report.upserted_count == len(records)
    assert report.request_count == len(upserts(index))
    assert report.request_bytes == sum(request.body_bytes for request in upserts(index))
