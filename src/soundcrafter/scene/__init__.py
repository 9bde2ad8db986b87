"""Scenes: several sounds at once, and in order."""
