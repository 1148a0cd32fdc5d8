"""Dagster's side of the audit chain: checkpoints, verification, alarm, and runs."""
