"""The page for all sounds that the server has made."""

import gradio as gr

from soundcrafter.serve.studio.cards import CardView, Format
from soundcrafter.serve.studio.desk import Desk

PAGE = 8  # jobs on a page


def history_page(desk: Desk, tab: gr.Tab) -> None:
    """All sounds of this server, to search; they survive restarts."""
    with gr.Row():
        search = gr.Textbox("", label="Search", placeholder="rain", scale=3)
        favourite = gr.Checkbox(label="Favourites only", scale=1)
        refresh = gr.Button("Refresh", scale=1)
    form = Format()
    before: gr.State = gr.State([])  # the last job of each page seen
    looked = gr.State(0)
    with gr.Row():
        newer, older = gr.Button("Newer"), gr.Button("Older")
    for event in (tab.select, refresh.click):
        event(lambda count: count + 1, [looked], [looked], show_progress="hidden")
    for changed in (search.change, favourite.change):
        changed(list, None, [before], show_progress="hidden")

    @gr.render([looked, search, favourite, before])
    def show(_: int, text: str, only: bool, pages: list[str]) -> None:
        jobs = desk.history(text.strip(), only, pages[-1] if pages else None, PAGE)
        if not jobs:
            gr.Markdown("No sounds.")
        for job in jobs:
            for card in desk.cards(job):
                CardView(desk, card, form, None)

    def next_page(text: str, only: bool, pages: list[str]) -> list[str]:
        jobs = desk.history(text.strip(), only, pages[-1] if pages else None, PAGE)
        return [*pages, jobs[-1].id] if len(jobs) == PAGE else pages

    older.click(next_page, [search, favourite, before], [before], show_progress="hidden")
    newer.click(lambda pages: pages[:-1], [before], [before], show_progress="hidden")
