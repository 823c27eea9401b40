"""What happens to records: Arrow in, bytes out. Imports no Airflow. Read :mod:`.run` first."""
