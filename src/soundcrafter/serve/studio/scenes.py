"""The page for scenes: a description, its events on a timeline, the mix and its stems."""

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from soundcrafter.scene.text import BALANCE, scene_from_text
from soundcrafter.serve.studio.cards import CardView, Format, find_card, stems_view, stop_job
from soundcrafter.serve.studio.desk import Desk
from soundcrafter.serve.studio.messages import Refused, error_text, reason, status_text
from soundcrafter.serve.studio.timeline import COLUMNS, HEADERS, drawing, moved, rows_of, scene_from
from soundcrafter.settings import to_dict

EXAMPLE = "wind in trees while birds sing, then thunder, then rain"
NOTHING_PLANNED = (
    '<p class="hint"><strong>The timeline appears here.</strong> "Plan it" turns the description '
    "into events; or add them to the table.</p>"
)


class ScenesPage:
    """A scene as a table and a timeline, rendered to a mix and its stems."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row(elem_classes="line"):
            self.text = gr.Textbox(
                label="Describe a scene", value=EXAMPLE, max_length=2000, scale=4
            )
            self.plan = gr.Button("Plan it", scale=0, min_width=140)
        with gr.Row():
            self.seconds = gr.Slider(
                0.5,
                desk.settings.max_seconds,
                value=10,
                step=0.5,
                label="Length (s)",
                min_width=160,
            )
            self.seed = gr.Number(0, precision=0, label="Seed", min_width=120)
        self.drawing = gr.HTML(NOTHING_PLANNED, elem_id="timeline")
        self.table = gr.Dataframe(
            headers=list(HEADERS),
            datatype=["str", "str", "number", "str", "number", "number", "number"],
            column_count=len(COLUMNS),
            row_count=1,
            interactive=True,
            type="array",
            label="Events. An empty length is as long as the sound. Pan: -1 left, 1 right.",
            elem_id="events",
        )
        self.moved = gr.Textbox(elem_id="moved", show_label=False, container=False)
        with gr.Row():
            self.go = gr.Button(
                "Render", variant="primary", elem_id="render", scale=3, min_width=120
            )
            self.stop = gr.Button("Stop", scale=1, min_width=80)
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
            event(drawing, [self.table, self.seconds], [self.drawing], show_progress="hidden")
        moved_by = [self.moved, self.table]
        self.moved.change(self._move, moved_by, [self.table], show_progress="hidden")
        self.go.click(
            self._render,
            [self.table, self.seconds, self.seed],
            [self.status, self.made, self.running],
            show_progress="hidden",
            concurrency_limit=None,
        )
        self.stop.click(
            lambda job: stop_job(self.desk, job), [self.running], [self.status], queue=False
        )

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

    def _render_result(self) -> None:
        with gr.Column(visible=False) as options:
            form = Format()
        self.made.change(lambda made: gr.Column(visible=made is not None), self.made, options)

        @gr.render([self.made])
        def show(made: tuple[str, int] | None) -> None:
            card = None if made is None else find_card(self.desk, *made)
            if card is None:
                return
            with gr.Row():
                with gr.Column(min_width=320):
                    CardView(self.desk, card, form, None)
                with gr.Column(min_width=320):
                    stems_view(self.desk, card)
