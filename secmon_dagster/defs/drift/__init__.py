"""Dagster's side of drift: the check job, the due-ness sensor, and the alert sensors."""
