"""How long work tells how far it has come."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # called with (done, total) after each part of the work
