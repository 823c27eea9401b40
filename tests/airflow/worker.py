"""
A worker beside the tests: gives each try it is told of to a task process of its own, as Airflow's executors do.

Reads lines ``file of the DAG <tab> file of the log <tab> task instance as JSON``, and writes one when that task process
is gone and Airflow knows what became of it.
"""

from __future__ import annotations

import sys

from airflow.executors.workloads import BundleInfo
from airflow.sdk.api.datamodels._generated import TaskInstance
from airflow.sdk.execution_time.supervisor import InProcessTestSupervisor, supervise_task


def main() -> None:
    """Run until the input ends."""
    # Airflow's API in this process in place of a server of its own; supervisor and task process are the real ones.
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
