"""The pages of the studio, in Gradio."""

import json
from collections.abc import Callable, Iterator, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from pydantic import ValidationError

from soundcrafter.audio import WRITE_SUFFIXES
from soundcrafter.files import one_line
from soundcrafter.scene.text import BALANCE, scene_from_text
from soundcrafter.serve.jobs import Job, QueueFull
from soundcrafter.serve.service import DiskFull, Service, Stopping
from soundcrafter.serve.studio.desk import PICTURE_WIDTH, Card, Desk, request_from
from soundcrafter.serve.studio.timeline import COLUMNS, drawing, moved, rows_of, scene_from
from soundcrafter.settings import to_dict

EXAMPLES = (
    "heavy rain on a tin roof",
    "a dog barks twice",
    "church bells ring in the distance",
    "footsteps on gravel",
    "a door slams, then a dog barks",
)
SCENE_EXAMPLE = "wind in trees while birds sing, then thunder, then rain"
PAGE = 8  # jobs on a page of the history
_RATES = ("as made", "44100", "48000")
Refused = (ValueError, QueueFull, ValidationError, DiskFull, Stopping)


def mount(app: FastAPI, service: Service) -> None:
    """Mount the studio at / of an app whose own routes are there already."""
    settings = service.settings
    folder = resources.files("soundcrafter.serve.studio")
    script = folder.joinpath("studio.js").read_text(encoding="utf-8")
    gr.mount_gradio_app(
        app,
        studio(service),
        path="/",
        allowed_paths=[str(settings.folder.absolute())],
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
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300"
    )


def studio(service: Service) -> gr.Blocks:
    """The pages, over the jobs of a server."""
    desk = Desk(service)
    with gr.Blocks(title="SoundCrafter", analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown("# SoundCrafter", elem_id="title")
        with gr.Tabs():
            with gr.Tab("Sounds"):
                SoundsPage(desk)
            with gr.Tab("Scenes"):
                ScenesPage(desk)
            with gr.Tab("History") as history:
                _history(desk, history)
    return blocks


class SoundsPage:
    """From a prompt to sounds, and what can be made of them."""

    def __init__(self, desk: Desk) -> None:
        self.desk, limits = desk, desk.settings
        self.shown = gr.State([])  # (job, index) of the cards, newest first
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.prompt = gr.Textbox(
                    "",
                    label="Describe the sound",
                    placeholder="heavy rain on a tin roof",
                    max_length=2000,
                    autofocus=True,
                    elem_id="prompt",
                )
                with gr.Row():
                    self.seconds = gr.Slider(
                        0,
                        limits.max_seconds,
                        value=0,
                        step=0.1,
                        label="Length (s)",
                        info="0: as long as the sound",
                    )
                    self.count = gr.Slider(
                        1, limits.max_count, value=2, step=1, label="Sounds", info="Takes of it"
                    )
                    self.seed = gr.Number(-1, precision=0, label="Seed", info="-1: random")
                with gr.Accordion("More", open=False):
                    self.steps = gr.Slider(
                        0, limits.max_steps, value=0, step=1, label="Steps", info="0: the model's"
                    )
                    self.guidance = gr.Slider(
                        0, 12, value=0, step=0.5, label="Guidance", info="0: the model's"
                    )
                    self.negative = gr.Textbox("", label="Without", placeholder="music")
                    self.more = gr.Textbox("", label="More", placeholder="bright, metallic")
                    self.less = gr.Textbox("", label="Less", placeholder="reverberant")
                    self.loop = gr.Checkbox(label="Make loops")
                    self.pasted = gr.Code(label="Settings", language="json", lines=4)
                    self.file = gr.File(
                        label="Or a sound that says how it was made",
                        file_types=[*WRITE_SUFFIXES],
                        height=90,
                    )
                    self.use = gr.Button("Use these settings")
                with gr.Row():
                    self.go = gr.Button("Generate", variant="primary", elem_id="generate")
                    self.stop = gr.Button("Stop")
                self.status = gr.HTML(elem_classes="status", elem_id="status")
                gr.Examples([[text] for text in EXAMPLES], [self.prompt], label="Examples")
            with gr.Column(scale=3, min_width=320):
                self.format = Format()
                self.running = gr.State("")
                self._render_cards()
        self._wire()

    def _wire(self) -> None:
        inputs: list[Any] = [self.prompt, self.seconds, self.count, self.seed, self.steps]
        inputs += [self.guidance, self.negative, self.more, self.less, self.loop, self.shown]
        outputs = [self.status, self.shown, self.running]
        for event in (self.prompt.submit, self.go.click):
            event(self._generate, inputs, outputs, show_progress="hidden", concurrency_limit=None)
        self.stop.click(self._stop, [self.running], [self.status], queue=False)
        fields: list[Any] = [self.prompt, self.seconds, self.seed, self.steps, self.guidance]
        fields += [self.more, self.less, self.loop, self.status]
        self.use.click(self._use, [self.pasted], fields)
        self.file.upload(self._read, [self.file], [self.pasted, self.status])

    def _generate(
        self,
        prompt: str,
        seconds: float,
        count: float,
        seed: float,
        steps: float,
        guidance: float,
        negative: str,
        more: str,
        less: str,
        loop: bool,
        shown: list[tuple[str, int]],
    ) -> Iterator[tuple[Any, Any, Any]]:
        request = {
            "prompt": prompt.strip(),
            "seconds": seconds or None,
            "count": int(count),
            "seed": int(seed if seed is not None else -1),
            "steps": int(steps) or None,
            "guidance": guidance or None,
            "negative": negative.strip(),
            "more": _words(more),
            "less": _words(less),
            "loop": loop or None,
        }
        if not request["prompt"]:
            yield error_text("Describe the sound first: the prompt is empty."), shown, ""
            return
        yield from self.make(request, shown)

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

    def _stop(self, job: str) -> Any:
        if job and self.desk.store.cancel(job):
            return gr.skip()
        return "<p>Nothing is being made.</p>"

    def _use(self, text: str) -> tuple[Any, ...]:
        try:
            found = request_from(text or "")
        except ValueError as error:
            return (*(gr.skip() for _ in range(8)), error_text(str(error)))
        return (
            found.get("prompt", ""),
            found.get("seconds") or 0,
            found.get("seed", -1),
            found.get("steps") or 0,
            found.get("guidance") or 0,
            ", ".join(found.get("more", ())),
            ", ".join(found.get("less", ())),
            bool(found.get("loop")),
            "<p>Settings are in place.</p>",
        )

    def _read(self, file: str) -> tuple[Any, Any]:
        try:
            return self.desk.provenance(Path(file)), "<p>Read the settings in this file.</p>"
        except ValueError as error:
            return gr.skip(), error_text(str(error).replace(str(Path(file).parent) + "/", ""))

    def _render_cards(self) -> None:
        @gr.render([self.shown])
        def show(shown: list[tuple[str, int]]) -> None:
            if not shown:
                gr.Markdown(
                    "Sounds appear here. Space plays the first one, or the last one played."
                )
            for job, index in shown[:24]:
                card = find_card(self.desk, job, index)
                if card is not None:
                    CardView(self.desk, card, self.format, self)


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

    def __init__(self, desk: Desk, card: Card, form: Format, page: SoundsPage | None) -> None:
        self.desk, self.card, self.page = desk, card, page
        with gr.Column(elem_classes="card", key=f"{card.job}-{card.index}"):
            gr.Markdown(f"**{_plain(card.prompt)}**")
            gr.Markdown(card.facts, elem_classes="facts")
            gr.Audio(
                str(desk.file(card)),
                label=f"{card.prompt}, {card.facts}",
                show_label=False,
                interactive=False,
                buttons=[],
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
            if page is not None:
                self._edit(picture, page)
            with gr.Accordion("Settings of this sound", open=False):
                gr.Code(desk.settings_of(card.job), language="json", interactive=False)

    def _save(self, form: Format) -> None:
        with gr.Row():
            save = gr.Button("Save", size="sm", min_width=90)
            favourite = gr.Checkbox(self.card.favourite, label="Favourite", container=False)
            file = gr.File(visible=False, height=60, label="File")
        note = gr.HTML(elem_classes="status", visible=False)
        save.click(self._export, form.inputs, [file, note], show_progress="minimal")
        favourite.change(
            lambda on: self.desk.store.set_favourite(self.card.job, on) and None, [favourite], None
        )

    def _export(self, kind: str, rate: str, depth: str, stereo: bool) -> tuple[Any, Any]:
        depth = depth if kind in ("wav", "flac") else "16"
        number = int(rate) if rate.isdecimal() else None
        try:
            made = self.desk.exported(self.card, kind, number, depth, stereo)
        except ValueError as error:
            return gr.skip(), gr.HTML(error_text(str(error)), visible=True)
        return gr.File(str(made), visible=True), gr.HTML(visible=False)

    def _edit(self, picture: gr.Image, page: SoundsPage) -> None:
        card, outputs = self.card, [page.status, page.shown, page.running]
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
        plans: list[tuple[gr.Button, Callable[..., dict[str, Any]], list[Any]]] = [
            (vary, lambda: {"init": desk_upload(), "strength": 0.6}, []),
            (like, lambda: {"like": desk_upload(), "seconds": max(card.seconds, 1.0)}, []),
            (extend, lambda: {"init": desk_upload(), "seconds": card.seconds + 3.0}, []),
            (loop, lambda: {"init": desk_upload(), "loop": True}, []),
            (regenerate, self._part, [start, end, what]),
        ]

        def desk_upload() -> str:
            return self.desk.upload_of(card)

        for button, plan, inputs in plans:

            def run(
                shown: list[tuple[str, int]], *values: Any, plan: Callable[..., Any] = plan
            ) -> Iterator[tuple[Any, Any, Any]]:
                try:
                    request = plan(*values)
                except ValueError as error:
                    yield error_text(str(error)), shown, ""
                    return
                yield from page.make(request, shown)

            button.click(
                run,
                [page.shown, *inputs],
                outputs,
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


class ScenesPage:
    """A scene as a table and a timeline, rendered to a mix and its stems."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row():
            self.text = gr.Textbox(
                label="Describe a scene", value=SCENE_EXAMPLE, max_length=2000, scale=4
            )
            self.plan = gr.Button("Plan it", scale=1)
        with gr.Row():
            self.seconds = gr.Slider(
                0.5, desk.settings.max_seconds, value=10, step=0.5, label="Length in seconds"
            )
            self.seed = gr.Number(0, precision=0, label="Seed")
        self.drawing = gr.HTML(elem_id="timeline")
        self.table = gr.Dataframe(
            headers=list(COLUMNS),
            datatype=["str", "str", "number", "str", "number", "number", "number"],
            column_count=len(COLUMNS),
            row_count=1,
            interactive=True,
            type="array",
            label="Events: an empty length is as long as the sound; pan from -1 to 1; gain in LU",
            elem_id="events",
        )
        self.moved = gr.Textbox(elem_id="moved", show_label=False, container=False)
        with gr.Row():
            self.go = gr.Button("Render", variant="primary", elem_id="render")
            self.stop = gr.Button("Stop")
        self.status = gr.HTML(elem_classes="status")
        self.made = gr.State(None)  # (job, index)
        self.running = gr.State("")
        self._wire()
        self._render_result()

    def _wire(self) -> None:
        inputs = [self.text, self.seconds, self.seed]
        outputs = [self.table, self.drawing, self.status]
        for event in (self.plan.click, self.text.submit):
            event(self._plan, inputs, outputs)
        for event in (self.table.change, self.seconds.release):
            event(_draw, [self.table, self.seconds], [self.drawing], show_progress="hidden")
        moved_by = [self.moved, self.table]
        self.moved.change(self._move, moved_by, [self.table], show_progress="hidden")
        self.go.click(
            self._render,
            [self.table, self.seconds, self.seed],
            [self.status, self.made, self.running],
            show_progress="hidden",
            concurrency_limit=None,
        )
        self.stop.click(self._stop, [self.running], [self.status], queue=False)

    def _plan(self, text: str, seconds: float, seed: float) -> tuple[Any, Any, Any]:
        try:
            scene = scene_from_text(text, seconds=seconds, seed=int(seed or 0))
        except ValueError as error:
            return gr.skip(), gr.skip(), error_text(str(error))
        rows = rows_of(scene)
        return rows, drawing(rows, seconds), ""

    def _move(self, change: str, rows: list[list[Any]]) -> Any:
        try:
            found = json.loads(change)
            return moved(rows, int(found["row"]), float(found["start"]))
        except (ValueError, KeyError, TypeError):
            return gr.skip()

    def _render(
        self, rows: list[list[Any]], seconds: float, seed: float
    ) -> Iterator[tuple[Any, Any, Any]]:
        try:
            scene = scene_from(rows, seconds, int(seed or 0), BALANCE)
            job = self.desk.submit(scene=to_dict(scene))
        except Refused as error:
            yield error_text(reason(error)), gr.skip(), ""
            return
        for now in self.desk.watch(job):
            made = [(card.job, card.index) for card in self.desk.cards(now)]
            running = "" if now.is_ended else now.id
            yield status_text(now, self.desk), made[0] if made else gr.skip(), running

    def _stop(self, job: str) -> Any:
        if job and self.desk.store.cancel(job):
            return gr.skip()
        return "<p>Nothing is being made.</p>"

    def _render_result(self) -> None:
        form = Format()

        @gr.render([self.made])
        def show(made: tuple[str, int] | None) -> None:
            card = None if made is None else find_card(self.desk, *made)
            if card is None:
                return
            CardView(self.desk, card, form, None)
            stems_view(self.desk, card)


def stems_view(desk: Desk, card: Card) -> None:
    """The stems of a mix: which of them are heard, each by itself, and all in one file."""
    if not card.stems:
        return
    names = list(card.stems)
    with gr.Column(elem_classes="card"):
        heard = gr.CheckboxGroup(names, value=names, label="Heard stems")
        with gr.Row():
            solos = [gr.Button(f"Solo: {name}", size="sm", min_width=90) for name in names]
            everything = gr.Button("All", size="sm", min_width=90)
        audio = gr.Audio(
            str(desk.chosen_stems(card, names)), label="These stems", interactive=False, buttons=[]
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


def _history(desk: Desk, tab: gr.Tab) -> None:
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


def find_card(desk: Desk, job: str, index: int) -> Card | None:
    """The card of a sound, or None if it has been deleted."""
    found = desk.store.get(job)
    cards = [] if found is None else desk.cards(found)
    return next((card for card in cards if card.index == index), None)


def status_text(job: Job, desk: Desk) -> str:
    """How far a job is, as HTML."""
    if job.state == "failed":
        return error_text(job.error or "It failed.")
    if job.state == "cancelled":
        return "<p>Stopped.</p>"
    if job.state == "done":
        return '<p role="status">Done.</p>'
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


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _plain(text: str) -> str:
    """Text without the characters that Markdown reads."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|<>~$" else c for c in text)


def _draw(rows: list[list[Any]], seconds: float) -> str:
    return drawing(rows, seconds)
