"""What the API, other servers' API shapes and the studio do with the queue."""

import hashlib
import shutil
from pathlib import Path
from typing import Literal

from soundcrafter.audio import Depth, read_audio
from soundcrafter.export import Export
from soundcrafter.files import make_folder, replacing
from soundcrafter.serve.formats import MASTER, Codec, encode, read_master, zip_stems
from soundcrafter.serve.jobs import Job, JobStore
from soundcrafter.serve.requests import SoundRequest, new_job
from soundcrafter.serve.settings import ServeSettings
from soundcrafter.serve.supervisor import Supervisor
from soundcrafter.serve.watching import Watch

MOST_VARIANTS = 16  # files in other formats that are kept of a job
_MIB = 2**20


class DiskFull(Exception):
    """Too little space is left for new sounds."""


class Stopping(Exception):
    """The server takes no new jobs."""


class Gone(Exception):
    """There is no such job, sound or stem."""


class Service:
    """The queue and its files."""

    def __init__(
        self, settings: ServeSettings, store: JobStore, supervisor: Supervisor | None = None
    ) -> None:
        self.settings, self.store, self.supervisor = settings, store, supervisor
        self.watch = Watch(store)
        self.uploads = make_folder(settings.uploads)

    @property
    def is_ready(self) -> bool:
        """Whether a worker has loaded; without a supervisor, workers are somebody else's."""
        return self.supervisor is None or self.supervisor.is_ready

    @property
    def is_stopping(self) -> bool:
        """Whether no job is begun any more."""
        return self.supervisor is not None and self.supervisor.is_stopping

    def submit(self, request: SoundRequest, *, origin: str = "api") -> Job:
        """Check a request and queue it. Raises ValueError, QueueFull, DiskFull and Stopping."""
        if self.is_stopping:
            raise Stopping("the server is stopping; try again later")
        new = new_job(request, self.settings, self.upload_file, origin=origin)
        self.check_disk()
        return self.store.submit(new)

    def check_disk(self) -> None:
        """Raise DiskFull where new sounds may not fit."""
        if shutil.disk_usage(self.settings.folder).free < self.settings.min_free_mib * _MIB:
            raise DiskFull("the server's disk is full")

    def upload_file(self, upload: str) -> Path | None:
        """The file of an upload, if there is one."""
        is_id = len(upload) == 64 and all(c in "0123456789abcdef" for c in upload)
        file = self.uploads / f"{upload}.wav"
        return file if is_id and file.is_file() else None

    def job(self, job: str) -> Job:
        """A job by its id. Raises Gone."""
        found = self.store.get(job)
        if found is None:
            raise Gone("there is no such sound")
        return found

    def remove(self, job: str) -> Job | None:
        """Cancel a job that has not ended, and return it; or remove it, and return None."""
        if self.store.cancel(job):
            return self.job(job)
        self.job(job)
        if self.store.delete(job):
            shutil.rmtree(self.store.sounds_folder(job), ignore_errors=True)
        return None

    def audio_file(
        self,
        job: Job,
        index: int = 0,
        codec: Codec = "wav",
        *,
        rate: int | None = None,
        depth: Literal["16", "24", "float"] | None = None,
        stereo: bool = False,
        lufs: float | None = None,
        kbps: int | None = None,
    ) -> Path:
        """A sound in a format; wav without options is the master.

        Raises Gone, and ValueError for a format that there is not.
        """
        master = self._master(job, index)
        # ogg and mp3 have no depth, and it is called 16
        own: Depth = "24" if codec in ("wav", "flac") else "16"
        export = Export(rate=rate, depth=depth or own, stereo=stereo, lufs=lufs)
        if codec == "wav" and export == MASTER:
            return master
        key = hashlib.sha256(repr((export, kbps)).encode()).hexdigest()[:16]
        file = self._variant(job, f"{index}-{key}.{codec}")
        if not file.is_file():
            loop = bool(job.result and job.result["sounds"][index].get("loop"))
            data = encode(read_master(master, title=job.prompt, loop=loop), codec, export, kbps)
            self._write(file, data)
        return file

    def spectrogram_file(self, job: Job, index: int = 0) -> Path:
        """The mel spectrogram of a sound, a PNG without axes. Raises Gone."""
        from soundcrafter.plots import mel_thumbnail

        master = self._master(job, index)
        file = self._variant(job, f"{index}.png")
        if not file.is_file():
            read = read_master(master)
            wave = read_audio(master, read.sample_rate)
            self._write(file, mel_thumbnail(wave, read.sample_rate, 640, 192))
        return file

    def stems_file(self, job: Job, index: int = 0) -> Path:
        """A zip file of the stems of a composed sound. Raises Gone."""
        self._master(job, index)
        names = (job.result or {}).get("stems", [])
        if not names:
            raise Gone("this sound has no stems: it was not composed")
        file = self._variant(job, f"{index}-stems.zip")
        if not file.is_file():
            folder = self.store.sounds_folder(job.id) / "stems" / str(index)
            self._write(file, zip_stems(folder, names))
        return file

    def _master(self, job: Job, index: int) -> Path:
        file = self.store.sound_file(job.id, index)
        if job.state != "done" or not 0 <= index < job.sounds or not file.is_file():
            raise Gone(f"there is no such sound: the job is {job.state}")
        return file

    def _variant(self, job: Job, name: str) -> Path:
        return self.store.sounds_folder(job.id) / "formats" / name

    def _write(self, file: Path, data: bytes) -> None:
        """Keep a file, and of those before it the newest."""
        folder = make_folder(file.parent)
        with replacing(file) as temporary:
            temporary.write_bytes(data)
        kept = sorted(folder.glob("[!.]*"), key=lambda each: each.stat().st_mtime, reverse=True)
        for old in kept[MOST_VARIANTS:]:
            old.unlink(missing_ok=True)
