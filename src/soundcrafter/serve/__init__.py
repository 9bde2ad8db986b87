"""The server: an HTTP API, a job queue that survives kills, and workers that make sounds."""
