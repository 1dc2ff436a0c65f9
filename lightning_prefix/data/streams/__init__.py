"""Data that are read as they are needed, in constant memory: from rows to batches with a place to go on from."""
