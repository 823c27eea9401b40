"""Fixtures for all tests: those that users get."""

pytest_plugins = ["airflow_pinecone_upsert.emulator.pytest_plugin"]
