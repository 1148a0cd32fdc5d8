"""The gate beside a bare interpreter, a bare hash, and other scanners."""
