"""Make a namespace equal to its source: send what changed, delete what vanished, verify the result. No Airflow."""
