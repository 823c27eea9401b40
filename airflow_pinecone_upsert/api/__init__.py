"""Pinecone's API: HTTP, endpoints, models, limits and errors. Imports neither Airflow nor Arrow."""
