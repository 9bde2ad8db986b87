"""The studio: the server's jobs in a browser, by Gradio."""

from soundcrafter.serve.studio.page import mount

__all__ = ["mount"]
