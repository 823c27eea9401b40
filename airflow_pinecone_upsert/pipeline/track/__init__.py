"""What became of every record: counts, checkpoint, progress, rejects."""
