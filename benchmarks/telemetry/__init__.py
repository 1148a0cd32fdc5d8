"""The metrics exporter with many events behind it."""
