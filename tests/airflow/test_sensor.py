"""The freshness sensor: in the worker, in a real triggerer that is killed, and in ``dag.test()``."""

from __future__ import annotations

import json
import math
import textwrap

import pytest

from airflow_pinecone_upsert import PineconeFreshnessSensor, PineconeHook, exceptions
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline import freshness
from airflow_pinecone_upsert.triggers.freshness import PineconeFreshnessTrigger

from .dag_source import DAG_HEAD
from .supervised import wait_until
from .triggerer import running_triggerer

LAG_S = 100.0
KEY = "local-key"


@pytest.fixture
def lagging(pinecone_index_factory, use_index, clock):
    return use_index(pinecone_index_factory(8, lag_s=LAG_S, clock=clock))


def upsert(count=1):
    with PineconeHook() as hook:
        return hook.upsert([(str(number), [1.0] * 8) for number in range(count)], namespace="n")


def polls(index):
    return len([request for request in list(index.requests) if request.path == "/query"])


def sensor(**parameters):
    return PineconeFreshnessSensor(task_id="wait", namespace="n", **parameters)


# In the worker ----------------------------------------------------------------------------------


def test_a_sensor_that_need_not_wait_does_not_defer(lagging, clock):
    lsn = upsert().lsn
    clock.now = LAG_S
    output = sensor(lsn=lsn).execute({})
    assert output == {"namespace": "n", "indexHost": lagging.url, "lsn": lsn, "recordCount": None}
    assert sensor(lsn=lsn, min_records=1).execute({})["recordCount"] == 1


@pytest.mark.parametrize("wrap", [str, lambda lsn: [None, lsn, lsn - 1], lambda lsn: [str(lsn)]])
def test_the_lsn_may_be_text_or_several(lagging, clock, wrap):
    lsn = upsert().lsn
    clock.now = LAG_S
    assert sensor(lsn=wrap(lsn)).execute({})["lsn"] == lsn


@pytest.mark.parametrize("lsn", [{"lsn": 1}, 1.5, "soon", [object()]])
def test_what_is_no_lsn_is_an_error(pinecone_index, use_index, lsn):
    use_index(pinecone_index)
    with pytest.raises(
        exceptions.SetupError, match=r"lsn holds .* not a whole number\. Pass one, such as upsert\.output"
    ):
        sensor(lsn=lsn).execute({})


@pytest.mark.parametrize("lsn", [None, "", "None", [None], []])
def test_without_an_lsn_the_count_must_settle_and_the_log_says_so(pinecone_index, use_index, monkeypatch, caplog, lsn):
    caplog.set_level("INFO")
    monkeypatch.setattr(freshness, "SETTLE_S", 0.1)
    use_index(pinecone_index)
    upsert(3)
    output = sensor(lsn=lsn, deferrable=False, poke_interval=0.01).execute({})
    assert (output["lsn"], output["recordCount"]) == (None, 3)
    assert "waiting until the number of records of namespace 'n' has been the same" in caplog.text


@pytest.mark.parametrize(("soft_fail", "error"), [(False, "AirflowSensorTimeout"), (True, "AirflowSkipException")])
def test_a_sensor_times_out_as_sensors_do(lagging, soft_fail, error):
    lsn = upsert().lsn
    with pytest.raises(Exception, match=r"a query sees the writes up to LSN 0.*or raise timeout") as caught:
        sensor(lsn=lsn, deferrable=False, timeout=0.05, poke_interval=0.01, soft_fail=soft_fail).execute({})
    assert type(caught.value).__name__ == error


def test_a_sensor_writes_nothing(lagging):
    assert sensor().outlets == []


def test_rescheduling_is_replaced_by_deferring():
    assert sensor(mode="reschedule").deferrable
    with pytest.raises(ValueError, match="use deferrable=True instead of"):
        sensor(mode="reschedule", deferrable=False)


# The trigger ------------------------------------------------------------------------------------


def test_the_serialized_form_restores_the_trigger_and_has_no_secret(lagging):
    from airflow.providers.common.compat.sdk import TaskDeferred

    with pytest.raises(TaskDeferred) as caught:
        sensor(lsn=upsert().lsn, min_records=7, index_name=None).execute({})
    path, parameters = caught.value.trigger.serialize()
    assert path == "airflow_pinecone_upsert.triggers.freshness.PineconeFreshnessTrigger"
    assert PineconeFreshnessTrigger(**json.loads(json.dumps(parameters))).serialize() == (path, parameters)
    assert parameters["min_records"] == 7
    assert KEY not in json.dumps(parameters)
    assert lagging.url not in json.dumps(parameters)


# In Airflow -------------------------------------------------------------------------------------

SENSOR = 'PineconeFreshnessSensor(task_id="wait", namespace="n", lsn={lsn}, poke_interval=0.1, {more})'
IMPORT = "from airflow_pinecone_upsert import PineconeFreshnessSensor"


@pytest.fixture
def start_triggerer(lagging):
    return lambda: running_triggerer(AIRFLOW_CONN_PINECONE_DEFAULT=lagging.connection_json())


@pytest.fixture
def deferred(task_processes, lagging):
    """Run a sensor until it is deferred."""

    def defer(**more):
        lsn = upsert().lsn
        options = ", ".join(f"{name}={value!r}" for name, value in more.items())
        run = task_processes(SENSOR.format(lsn=lsn, more=options), index=lagging, preamble=IMPORT)
        assert run.try_once() == "deferred", run.log_file.read_text()
        return run

    return defer


@pytest.mark.slow
def test_a_deferred_sensor_survives_the_end_of_its_triggerer(*, deferred, start_triggerer, lagging, clock):
    run = deferred()
    with start_triggerer() as first:
        before = polls(lagging)
        wait_until(lambda: polls(lagging) > before + 1)
        first.kill()
    with start_triggerer():
        before = polls(lagging)
        wait_until(lambda: polls(lagging) > before + 1)
        assert run.state == "deferred"
        clock.now = LAG_S
        wait_until(lambda: run.state == "scheduled")
    assert run.try_once() == "success"
    assert run.output()["lsn"] == lagging.store.lsn


UPSERT_AND_WAIT = """
from airflow_pinecone_upsert import PineconeFreshnessSensor

upsert = PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="n")
PineconeFreshnessSensor(task_id="wait", namespace="n", lsn=upsert.output["lsn"], poke_interval=0.1, {more})
"""


@pytest.fixture
def upsert_and_wait(run_dag):
    return lambda **more: run_dag(
        DAG_HEAD
        + textwrap.indent(
            UPSERT_AND_WAIT.format(more=", ".join(f"{name}={value!r}" for name, value in more.items())), "    "
        )
    )


def test_a_sensor_takes_the_lsn_of_an_upsert(upsert_and_wait, pinecone_index_factory, use_index):
    index = use_index(pinecone_index_factory(8, lag_s=0.5))
    run = upsert_and_wait(min_records=1)
    assert run.state == "success"
    assert run.output("wait") == {
        "namespace": "n",
        "indexHost": index.url,
        "lsn": run.output("upsert", "lsn"),
        "recordCount": 1,
    }


@pytest.mark.parametrize(
    ("more", "query", "state", "said"),
    [
        ({}, [Fault.stall(0), Fault.status(401, "Invalid API Key")], "failed", "Check the API key"),
        ({"timeout": 0.5}, [], "failed", "a query sees the writes up to LSN 0"),
        ({"timeout": 0.5, "soft_fail": True}, [], "skipped", "a query sees the writes up to LSN 0"),
    ],
)
def test_a_deferred_sensor_ends_as_one_that_waits(
    *, upsert_and_wait, pinecone_index_factory, use_index, caplog, capsys, more, query, state, said
):
    index = use_index(pinecone_index_factory(8, lag_s=math.inf))
    for fault in query:
        index.faults.next(fault, path="/query")
    assert upsert_and_wait(**more).task_state("wait") == state
    assert said in capsys.readouterr().out + caplog.text


def test_an_upsert_without_an_lsn_is_waited_for_by_its_count(upsert_and_wait, pinecone_index, monkeypatch):
    monkeypatch.setattr(freshness, "SETTLE_S", 0.1)
    pinecone_index.faults.next(Fault.body(200, b'{"upsertedCount":1}', "application/json"), path="/vectors/upsert")
    run = upsert_and_wait(min_records=0)
    assert run.output("upsert")["lsn"] is None
    assert run.output("wait")["recordCount"] == 0
