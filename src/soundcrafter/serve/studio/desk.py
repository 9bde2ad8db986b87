"""What the studio does with jobs and their files; nothing here knows Gradio."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.audio import read_channels
from soundcrafter.export import PEAK
from soundcrafter.filenames import slug
from soundcrafter.files import file_sha256, make_folder, replacing
from soundcrafter.provenance import read_provenance
from soundcrafter.serve.formats import MASTER, Codec
from soundcrafter.serve.jobs import Job
from soundcrafter.serve.requests import SoundRequest
from soundcrafter.serve.service import Service
from soundcrafter.settings import to_dict

ORIGIN = "studio"
PICTURE_WIDTH = 640  # pixels of a spectrogram
_LOOK = 0.3  # seconds between two looks at a job


@dataclass(frozen=True)
class Card:
    """A sound as the page shows it."""

    job: str
    index: int
    prompt: str
    seed: int
    seconds: float
    score: float | None
    favourite: bool
    stems: tuple[str, ...]

    @property
    def facts(self) -> str:
        """Its seed, length and score in words."""
        score = "" if self.score is None else f" · score {self.score:.2f}"
        return f"seed {self.seed} · {self.seconds:.2f} s{score}"


class Desk:
    """Submits requests and finds the sounds of jobs."""

    def __init__(self, service: Service) -> None:
        self.service, self.store, self.settings = service, service.store, service.settings

    def submit(self, **request: Any) -> Job:
        """Add a job. Raises ValueError for a request that cannot be made, and as the service."""
        given = {name: value for name, value in request.items() if value not in (None, "", [])}
        return self.service.submit(SoundRequest.model_validate(given), origin=ORIGIN)

    def watch(self, job: Job) -> Iterator[Job]:
        """Yield a job whenever there is news of it, until it has ended."""
        seen: Job | None = job
        while seen is not None:
            yield seen
            if seen.is_ended:
                return
            seen = self.store.wait(job.id, _LOOK)

    def cards(self, job: Job) -> list[Card]:
        """The sounds of a job; none if it has not ended well."""
        result = job.result or {}
        return [
            Card(
                job.id,
                sound["index"],
                job.prompt or "a given sound",
                sound["seed"],
                sound["seconds"],
                sound["score"],
                job.favourite,
                tuple(result.get("stems", ())),
            )
            for sound in result.get("sounds", ())
            if self.store.sound_file(job.id, sound["index"]).is_file()
        ]

    def history(
        self, search: str, favourite: bool, before: str | None, limit: int
    ) -> Sequence[Job]:
        """Jobs that have ended well, newest first."""
        found: list[Job] = []
        while len(found) < limit:
            jobs = self.store.list(search, before, 50, True if favourite else None)
            found += [job for job in jobs if job.state == "done"]
            if len(jobs) < 50:
                break
            before = jobs[-1].id
        return found[:limit]

    def file(self, card: Card) -> Path:
        """The master of a sound."""
        return self.store.sound_file(card.job, card.index)

    def picture(self, card: Card) -> Path:
        """Its spectrogram, a PNG without axes."""
        return self.service.spectrogram_file(self.service.job(card.job), card.index)

    def stem_file(self, card: Card, name: str) -> Path:
        """The master of a stem."""
        return self.store.sounds_folder(card.job) / "stems" / str(card.index) / f"{name}.wav"

    def exported(self, card: Card, kind: Codec, rate: int | None, depth: str, stereo: bool) -> Path:
        """A copy of a sound in another format. Raises ValueError if the format is impossible."""
        options: dict[str, Any] = {"rate": rate, "depth": depth, "stereo": stereo}
        made = self.service.audio_file(self.service.job(card.job), card.index, kind, **options)
        # a name that says what it is
        target = self._folder(card) / f"{slug(card.prompt)}-{card.seed}.{kind}"
        with replacing(target) as temporary:
            shutil.copyfile(made, temporary)
        return target

    def chosen_stems(self, card: Card, names: Sequence[str]) -> Path | None:
        """A mix of some stems; None for none."""
        if not names:
            return None
        waves = [read_channels(self.stem_file(card, name)) for name in names]
        total = np.sum([samples for samples, _ in waves], axis=0)
        peak = float(np.abs(total).max(initial=0.0))
        limited = total * np.float32(min(1.0, PEAK / max(peak, 1e-9)))
        chosen = "+".join(sorted(names))[:80]
        target = self._folder(card) / f"{chosen}.wav"
        MASTER.write(target, limited, waves[0][1])
        return target

    def stems_zip(self, card: Card) -> Path:
        """All stems in one file."""
        return self.service.stems_file(self.service.job(card.job), card.index)

    def _folder(self, card: Card) -> Path:
        """Where files made for a page are; removed with the job."""
        return make_folder(self.store.sounds_folder(card.job) / "studio" / str(card.index))

    def settings_of(self, job: str) -> str:
        """The request of a job, as JSON to copy."""
        found = self.store.get(job)
        return "" if found is None else json.dumps(found.request, indent=2)

    def provenance(self, file: Path) -> str:
        """How the sound in a file was made, as JSON. Raises ValueError if the file does not say."""
        return json.dumps(to_dict(read_provenance(file)), indent=2)

    def upload_of(self, card: Card) -> str:
        """Copy a sound into the uploads, so that a request can name it; returns its id."""
        file = self.file(card)
        name = file_sha256(file)
        target = self.service.uploads / f"{name}.wav"
        if not target.is_file():
            with replacing(target) as temporary:
                shutil.copyfile(file, temporary)
        return name


def request_from(text: str) -> dict[str, Any]:
    """The options in settings or a provenance that were pasted. Raises ValueError for other text.

    Of a provenance, what a request cannot say is left out: files that the sound was made from.
    """
    try:
        data = json.loads(text)
    except ValueError:
        raise ValueError("settings: this is not JSON") from None
    if not isinstance(data, Mapping):
        raise ValueError("settings: expected an object")
    if "soundcrafter" not in data:
        unknown = sorted(set(data) - set(SoundRequest.model_fields))
        if unknown:
            raise ValueError(f"settings: unknown option {unknown[0]}")
        return dict(data)
    arguments = data.get("arguments", {})
    if data.get("call") == "render":
        return {"scene": arguments.get("scene")}
    index = data.get("index", 0)
    prompts, seeds = arguments.get("prompts"), arguments.get("seed", [0])
    prompt = prompts[index] if prompts else None
    known = {"steps", "guidance", "seconds", "candidates", "loop", "more", "less", "steer"}
    found = {k: v for k, v in {**data.get("sampling", {}), **arguments}.items() if k in known}
    found["seed"] = seeds[index]
    if isinstance(prompt, Mapping) and "mix" in prompt:
        return {**found, "mix": prompt["mix"]}
    return {**found, "prompt": prompt} if isinstance(prompt, str) else found
