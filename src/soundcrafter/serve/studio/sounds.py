"""The page for sounds: a prompt, its options, and what was made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from soundcrafter.audio import WRITE_SUFFIXES
from soundcrafter.serve.studio.cards import CardView, Format, Results, find_card, stop_job
from soundcrafter.serve.studio.desk import Desk, request_from
from soundcrafter.serve.studio.messages import error_text

EXAMPLES = (
    "heavy rain on a tin roof",
    "a dog barks twice",
    "church bells ring in the distance",
    "footsteps on gravel",
    "a door slams, then a dog barks",
)
NOTHING_YET = (
    "**Your sounds appear here.** Describe one and press Enter, or choose an example. "
    "Space plays and pauses."
)
MOST_SHOWN = 24  # cards


class SoundsPage:
    """From a prompt to sounds, and what can be made of them."""

    def __init__(self, desk: Desk) -> None:
        self.desk, limits = desk, desk.settings
        self.results = Results(desk)
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
                        info="0: automatic",
                        min_width=130,
                    )
                    self.count = gr.Slider(
                        1,
                        limits.max_count,
                        value=2,
                        step=1,
                        label="Takes",
                        info="Versions of it",
                        min_width=130,
                    )
                with gr.Row():
                    self.go = gr.Button(
                        "Generate", variant="primary", elem_id="generate", scale=3, min_width=120
                    )
                    self.stop = gr.Button("Stop", scale=1, min_width=80)
                self.results.status.render()
                with gr.Accordion("More options", open=False):
                    self.seed = gr.Number(
                        -1,
                        precision=0,
                        label="Seed",
                        info="-1: another one each time. The same seed makes the same sound again.",
                    )
                    self.steps = gr.Slider(
                        0,
                        limits.max_steps,
                        value=0,
                        step=1,
                        label="Steps",
                        info="0: automatic",
                    )
                    self.guidance = gr.Slider(
                        0, 12, value=0, step=0.5, label="Guidance", info="0: automatic"
                    )
                    self.negative = gr.Textbox("", label="Avoid", placeholder="music")
                    self.more = gr.Textbox("", label="More of", placeholder="bright, metallic")
                    self.less = gr.Textbox("", label="Less of", placeholder="reverberant")
                    self.loop = gr.Checkbox(label="Make it loop without a seam")
                    self.pasted = gr.Code(label="Settings to use again", language="json", lines=4)
                    self.file = gr.File(
                        label="Or a sound file made here, which has its settings inside",
                        file_types=[*WRITE_SUFFIXES],
                        height=90,
                    )
                    self.use = gr.Button("Use these settings")
                gr.Examples([[text] for text in EXAMPLES], [self.prompt], label="Examples")
            with gr.Column(scale=3, min_width=320):
                self.format = Format()
                self._render_cards()
        self._wire()

    def _wire(self) -> None:
        inputs: list[Any] = [self.prompt, self.seconds, self.count, self.seed, self.steps]
        inputs += [self.guidance, self.negative, self.more, self.less, self.loop]
        inputs.append(self.results.shown)
        results = self.results
        for event in (self.prompt.submit, self.go.click):
            event(
                self._generate,
                inputs,
                results.outputs,
                show_progress="hidden",
                concurrency_limit=None,
            )
        self.stop.click(
            lambda job: stop_job(self.desk, job), [results.running], [results.status], queue=False
        )
        fields: list[Any] = [self.prompt, self.seconds, self.seed, self.steps, self.guidance]
        fields += [self.more, self.less, self.loop, results.status]
        self.use.click(self._use, [self.pasted], fields)
        self.file.upload(self._read, [self.file], [self.pasted, results.status])

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
        yield from self.results.make(request, shown)

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
        @gr.render([self.results.shown])
        def show(shown: list[tuple[str, int]]) -> None:
            if not shown:
                gr.Markdown(NOTHING_YET, elem_classes="hint")
            for job, index in shown[:MOST_SHOWN]:
                card = find_card(self.desk, job, index)
                if card is not None:
                    CardView(self.desk, card, self.format, self.results)


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
