"""What the studio says: how far a job is, and why a request was refused, as HTML."""

from html import escape

from pydantic import ValidationError

from soundcrafter.files import one_line
from soundcrafter.serve.jobs import Job, QueueFull
from soundcrafter.serve.service import DiskFull, Stopping
from soundcrafter.serve.studio.desk import Desk

Refused = (ValueError, QueueFull, ValidationError, DiskFull, Stopping)


def status_text(job: Job, desk: Desk) -> str:
    """How far a job is, as HTML."""
    if job.state == "failed":
        return error_text(job.error or "It failed.")
    if job.state == "cancelled":
        return "<p>Stopped.</p>"
    if job.state == "done":
        made = "1 sound" if job.sounds == 1 else f"{job.sounds} sounds"
        return f'<p role="status">Done: {made}.</p>'
    if job.state == "queued":
        waiting = desk.store.counts()["queued"]
        return f"<p>Waiting; {waiting} in the queue.</p><progress></progress>"
    done = f"{job.progress:.0%}"
    return f'<p>Making it: {done}</p><progress max="1" value="{job.progress:.3f}"></progress>'


def error_text(message: str) -> str:
    """A message about a fault, as HTML."""
    return f'<p class="error" role="alert">{escape(message)}</p>'


def reason(error: Exception) -> str:
    """Why a request was refused, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return one_line(error)
