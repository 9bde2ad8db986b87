"""The studio as a whole: its pages, mounted in the server's app."""

from importlib import resources
from typing import Any

import gradio as gr
from fastapi import FastAPI

from soundcrafter.serve.service import Service
from soundcrafter.serve.studio.desk import Desk
from soundcrafter.serve.studio.history import history_page
from soundcrafter.serve.studio.scenes import ScenesPage
from soundcrafter.serve.studio.sounds import SoundsPage

CACHE = (3600, 86_400)  # seconds: how often copies for pages are looked at, how long they stay


def mount(app: FastAPI, service: Service) -> None:
    """Mount the studio at / of an app whose own routes are there already."""
    settings = service.settings
    folder = resources.files("soundcrafter.serve.studio")
    script = folder.joinpath("studio.js").read_text(encoding="utf-8")
    gr.mount_gradio_app(
        app,
        studio(service),
        path="/",
        allowed_paths=[str((settings.folder / "sounds").absolute())],
        show_error=False,
        max_file_size=settings.max_upload_mib * 2**20,
        ssr_mode=False,
        footer_links=[],
        theme=_theme(),
        css=folder.joinpath("studio.css").read_text(encoding="utf-8"),
        head=f"<script>{script}</script>",
    )


def _theme() -> Any:
    """Gradio's default with the fonts of the system and darker small print."""
    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_border_color_focus="*primary_700",
        input_border_color_focus_dark="*primary_400",
        button_primary_background_fill="*primary_700",  # white on it has a contrast of 5
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )


def studio(service: Service) -> gr.Blocks:
    """The pages, over the jobs of a server."""
    desk = Desk(service)
    with gr.Blocks(
        title="SoundCrafter", analytics_enabled=False, fill_width=True, delete_cache=CACHE
    ) as blocks:
        gr.Markdown("# SoundCrafter", elem_id="title")
        with gr.Tabs():
            with gr.Tab("Sounds"):
                SoundsPage(desk)
            with gr.Tab("Scenes"):
                ScenesPage(desk)
            with gr.Tab("History") as history:
                history_page(desk, history)
    return blocks
