"""Sounds on a page: their players, what is made of them, how they are saved."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gradio as gr

from soundcrafter.audio import WRITE_SUFFIXES
from soundcrafter.serve.service import Gone
from soundcrafter.serve.studio.desk import PICTURE_WIDTH, Card, Desk
from soundcrafter.serve.studio.messages import Refused, error_text, reason, status_text

WAVEFORM = gr.WaveformOptions(waveform_color="#8a8f98", waveform_progress_color="#c2410c")
_RATES = ("as made", "44100", "48000")


class Results:
    """The sounds that a page shows, newest first, and what is being made."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.shown = gr.State([])  # (job, index) of the cards
        self.running = gr.State("")  # id of a job
        self.status = gr.HTML(elem_classes="status", elem_id="status", render=False)

    @property
    def outputs(self) -> list[Any]:
        """The components that `make` yields values for."""
        return [self.status, self.shown, self.running]

    def make(
        self, request: Mapping[str, Any], shown: list[tuple[str, int]]
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Submit a request and follow it; its sounds come before those shown."""
        try:
            job = self.desk.submit(**request)
        except Refused as error:
            yield error_text(reason(error)), shown, ""
            return
        for now in self.desk.watch(job):
            cards = [(card.job, card.index) for card in self.desk.cards(now)]
            yield status_text(now, self.desk), [*cards, *shown], "" if now.is_ended else now.id


class Format:
    """In which format sounds are saved."""

    def __init__(self) -> None:
        with gr.Accordion("Format of saved files", open=False), gr.Row():
            kinds = [suffix.removeprefix(".") for suffix in WRITE_SUFFIXES]
            self.kind = gr.Dropdown(kinds, value="wav", label="Format")
            self.rate = gr.Dropdown(list(_RATES), value="48000", label="Sample rate")
            self.depth = gr.Dropdown(["16", "24", "float"], value="24", label="Depth (wav, flac)")
            self.stereo = gr.Checkbox(label="Stereo")

    @property
    def inputs(self) -> list[Any]:
        """The components, as inputs of an event."""
        return [self.kind, self.rate, self.depth, self.stereo]


class CardView:
    """A sound with its player, its picture, and what can be made of it."""

    def __init__(self, desk: Desk, card: Card, form: Format, results: "Results | None") -> None:
        self.desk, self.card = desk, card
        with gr.Column(elem_classes="card", key=f"{card.job}-{card.index}"):
            gr.Markdown(f"**{_plain(card.prompt)}**")
            gr.Markdown(card.facts, elem_classes="facts")
            gr.Audio(
                str(desk.file(card)),
                label=f"{card.prompt}, {card.facts}",
                show_label=False,
                interactive=False,
                buttons=[],
                elem_classes="player",
                waveform_options=WAVEFORM,
            )
            picture = gr.Image(
                str(desk.picture(card)),
                label="Spectrogram",
                show_label=False,
                interactive=False,
                buttons=[],
                elem_classes="picture",
            )
            self._save(form)
            if results is not None:
                self._edit(picture, results)
            with gr.Accordion("Settings of this sound", open=False):
                gr.Code(desk.settings_of(card.job), language="json", interactive=False)

    def _save(self, form: Format) -> None:
        with gr.Row(elem_classes="keep"):
            save = gr.Button("Save", size="sm", scale=0, min_width=120)
            favourite = gr.Checkbox(
                self.card.favourite, label="Favourite", container=False, min_width=110
            )
            file = gr.File(visible=False, height=60, label="File")
        note = gr.HTML(elem_classes="status", visible=False)
        save.click(self._export, form.inputs, [file, note], show_progress="minimal")
        favourite.change(
            lambda on: self.desk.store.set_favourite(self.card.job, on) and None, [favourite], None
        )

    def _export(self, kind: Any, rate: str, depth: str, stereo: bool) -> tuple[Any, Any]:
        depth = depth if kind in ("wav", "flac") else "16"
        number = int(rate) if rate.isdecimal() else None
        try:
            made = self.desk.exported(self.card, kind, number, depth, stereo)
        except (ValueError, Gone) as error:
            return gr.skip(), gr.HTML(error_text(str(error)), visible=True)
        return gr.File(str(made), visible=True), gr.HTML(visible=False)

    def _edit(self, picture: gr.Image, results: "Results") -> None:
        card = self.card
        with gr.Row():
            vary = gr.Button("Vary", size="sm", min_width=90)
            like = gr.Button("More like this", size="sm", min_width=90)
            extend = gr.Button("Extend by 3 s", size="sm", min_width=90)
            loop = gr.Button("Make it a loop", size="sm", min_width=90)
        with gr.Accordion("Regenerate a part", open=False):
            gr.Markdown("Click its start and its end in the picture, or type them.")
            with gr.Row():
                start = gr.Number(0.0, label="From (s)", minimum=0, precision=2)
                end = gr.Number(round(card.seconds / 2, 2), label="To (s)", precision=2)
                what = gr.Textbox("", label="With", placeholder="the same sound")
            regenerate = gr.Button("Regenerate", size="sm", min_width=90)
        clicked = gr.State([])
        picture.select(self._mark, [clicked], [clicked, start, end])

        def source() -> str:
            return self.desk.upload_of(card)

        plans: list[tuple[gr.Button, Callable[..., dict[str, Any]], list[Any]]] = [
            (vary, lambda: {"init": source(), "strength": 0.6}, []),
            (like, lambda: {"like": source(), "seconds": max(card.seconds, 1.0)}, []),
            (extend, lambda: {"init": source(), "seconds": card.seconds + 3.0}, []),
            (loop, lambda: {"init": source(), "loop": True}, []),
            (regenerate, self._part, [start, end, what]),
        ]

        for button, plan, inputs in plans:

            def run(
                shown: list[tuple[str, int]], *values: Any, plan: Callable[..., Any] = plan
            ) -> Iterator[tuple[Any, Any, Any]]:
                try:
                    request = plan(*values)
                except ValueError as error:
                    yield error_text(str(error)), shown, ""
                    return
                yield from results.make(request, shown)

            button.click(
                run,
                [results.shown, *inputs],
                results.outputs,
                show_progress="hidden",
                concurrency_limit=None,
            )

    def _part(self, start: float | None, end: float | None, what: str) -> dict[str, Any]:
        if start is None or end is None or not 0 <= start < end:
            raise ValueError("The end of the part must come after its start.")
        region = {"start": start, "end": min(end, self.card.seconds)}
        return {"init": self.desk.upload_of(self.card), "regions": [region], "prompt": what.strip()}

    def _mark(self, clicked: list[float], event: gr.SelectData) -> tuple[Any, Any, Any]:
        at = round(event.index[0] / PICTURE_WIDTH * self.card.seconds, 2)
        if len(clicked) != 1:
            return [at], at, gr.skip()
        low, high = sorted([clicked[0], at])
        return [], low, high


def stems_view(desk: Desk, card: Card) -> None:
    """The stems of a mix: which of them are heard, each by itself, and all in one file."""
    if not card.stems:
        return
    names = list(card.stems)
    with gr.Column(elem_classes="card"):
        heard = gr.CheckboxGroup(names, value=names, label="Stems to hear")
        with gr.Row():
            solos = [gr.Button(f"Solo: {name}", size="sm", min_width=90) for name in names]
            everything = gr.Button("All of them", size="sm", min_width=90)
        audio = gr.Audio(
            str(desk.chosen_stems(card, names)),
            label="These stems",
            show_label=False,
            interactive=False,
            buttons=[],
            elem_classes="player",
            waveform_options=WAVEFORM,
        )
        zipped = gr.DownloadButton(
            "Save stems (zip)", str(desk.stems_zip(card)), size="sm", min_width=90
        )
    assert zipped is not None
    for name, button in zip(names, solos, strict=True):
        button.click(lambda name=name: [name], None, [heard])
    everything.click(lambda: names, None, [heard])

    def mix(chosen: list[str]) -> str | None:
        found = desk.chosen_stems(card, chosen)
        return None if found is None else str(found)

    heard.change(mix, [heard], [audio], show_progress="hidden")


def find_card(desk: Desk, job: str, index: int) -> Card | None:
    """The card of a sound, or None if it has been deleted."""
    found = desk.store.get(job)
    cards = [] if found is None else desk.cards(found)
    return next((card for card in cards if card.index == index), None)


def stop_job(desk: Desk, job: str) -> Any:
    """Cancel a job, whose end its page then reports; returns a status if there is none."""
    if job and desk.store.cancel(job):
        return gr.skip()
    return "<p>Nothing is being made.</p>"


def _plain(text: str) -> str:
    """Text without the characters that Markdown reads."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|<>~$" else c for c in text)
