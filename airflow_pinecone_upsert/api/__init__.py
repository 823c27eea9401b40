"""What Pinecone says: HTTP and its shapes. Imports neither Airflow nor Arrow."""
