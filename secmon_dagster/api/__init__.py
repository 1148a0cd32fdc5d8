"""The REST API: one router a subject; errors become problem+json in ``app``."""
