"""The API against the same query made directly, and its rate limiter."""
