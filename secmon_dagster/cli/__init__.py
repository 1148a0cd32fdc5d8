"""The ``secmon`` command line: one file a subject, errors turned into exit codes in ``main``."""
