"""Sounds that clients upload, decoded in a process of their own with limits."""

from pathlib import Path


def uploads_folder(folder: Path) -> Path:
    """The folder of the uploads, each as SHA256.wav."""
    return folder / "uploads"
