"""
A worker process: runs each try in its own task process, as Airflow's executors do.

It reads lines ``DAG file <tab> log file <tab> task instance as JSON``. It writes ``READY`` when it has started, and
``DONE`` for each line when that task process has exited and Airflow knows how it ended.
"""

from __future__ import annotations

import sys

from airflow.executors.workloads import BundleInfo
from airflow.sdk.api.datamodels._generated import TaskInstance
from airflow.sdk.execution_time.supervisor import InProcessTestSupervisor, supervise_task


def main() -> None:
    """Run until the input ends."""
    # Airflow's API runs in this process, not in a server; the supervisor and the task process are the real ones.
    client = InProcessTestSupervisor._api_client()
    print("READY", flush=True)
    for line in sys.stdin:
        dag_file, log_file, task_instance = line.split("\t")
        supervise_task(
            ti=TaskInstance.model_validate_json(task_instance),
            bundle_info=BundleInfo(name="dags-folder"),
            dag_rel_path=dag_file,
            token="",
            client=client,
            log_path=log_file,
        )
        print("DONE", flush=True)


if __name__ == "__main__":
    main()
