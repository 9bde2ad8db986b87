"""The page for all sounds that the server has made."""

import gradio as gr

from soundcrafter.serve.studio.cards import CardView, Format
from soundcrafter.serve.studio.desk import Desk

PAGE = 8  # jobs on a page


def history_page(desk: Desk, tab: gr.Tab) -> None:
    """All sounds of this server, to search; they survive restarts."""
    with gr.Row(elem_classes="line"):
        search = gr.Textbox("", label="Search", placeholder="rain", scale=4, min_width=220)
        favourite = gr.Checkbox(label="Favourites only", container=False, min_width=170)
        refresh = gr.Button("Refresh", scale=0, min_width=120)
    form = Format()
    before: gr.State = gr.State([])  # the last job of each page seen
    looked = gr.State(0)
    for event in (tab.select, refresh.click):
        event(lambda count: count + 1, [looked], [looked], show_progress="hidden")
    for changed in (search.change, favourite.change):
        changed(list, None, [before], show_progress="hidden")

    @gr.render([looked, search, favourite, before])
    def show(_: int, text: str, only: bool, pages: list[str]) -> None:
        jobs = desk.history(text.strip(), only, pages[-1] if pages else None, PAGE)
        cards = [card for job in jobs for card in desk.cards(job)]
        if not cards:
            gr.Markdown(_nothing(bool(text.strip()), only), elem_classes="hint")
        with gr.Row():
            for side in (0, 1):
                with gr.Column(min_width=320):
                    for card in cards[side::2]:
                        CardView(desk, card, form, None)

    with gr.Row():
        newer = gr.Button("Newer", size="sm", min_width=90)
        older = gr.Button("Older", size="sm", min_width=90)

    def next_page(text: str, only: bool, pages: list[str]) -> list[str]:
        jobs = desk.history(text.strip(), only, pages[-1] if pages else None, PAGE)
        return [*pages, jobs[-1].id] if len(jobs) == PAGE else pages

    older.click(next_page, [search, favourite, before], [before], show_progress="hidden")
    newer.click(lambda pages: pages[:-1], [before], [before], show_progress="hidden")


def _nothing(is_search: bool, only_favourites: bool) -> str:
    """Why the page is empty, and what helps."""
    if is_search:
        return "**No sound matches.** The search looks for words of the descriptions."
    if only_favourites:
        return "**No favourites yet.** Tick Favourite below a sound to find it here."
    return "**Nothing yet.** Every sound that is made appears here."
