"""Steps in boxes against Dagster's own executors, and what the boxes themselves cost and hold."""
