"""Triggers: what waits in Airflow's triggerer for Pinecone."""
