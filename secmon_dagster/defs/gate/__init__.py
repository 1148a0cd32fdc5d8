"""Dagster's side of the gate: re-scan, clean-up, and sensors on blocks and approvals."""
