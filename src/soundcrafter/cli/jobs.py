"""The output files of the sounds that one call of `generate` makes."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from soundcrafter.filenames import MAX_BYTES
from soundcrafter.output_jobs import OutputJob

if TYPE_CHECKING:  # imported late, so that --help is instant
    from soundcrafter.ucs import UcsNaming


def check_pipe(jobs: Sequence[OutputJob], others: Sequence[str]) -> None:
    """Raise ValueError unless a pipe can take the output: exactly one wav file."""
    if len(jobs) != 1:
        raise ValueError(
            f"output: '-' (stdout) accepts exactly one sound, got {len(jobs)}; name a folder"
        )
    if others:
        raise ValueError(f"output: '-' cannot be combined with {', '.join(others)}")
    if sys.stdout is None:
        raise ValueError("output: '-' is closed; redirect it to a file or a pipe")
    if os.isatty(1):
        raise ValueError("output: '-' is a terminal; redirect it to a file or a pipe")


def assign_files(
    jobs: Sequence[OutputJob],
    output: Path | None,
    template: str | None,
    *,
    overwrite: bool,
    skip_existing: bool,
    plot: bool,
    ucs: "UcsNaming | None" = None,
) -> list[OutputJob]:
    """Assign a file to each job and drop those to skip; nothing is made yet.

    `output` is a file, numbered if there are several sounds, or a folder, which may not exist yet.
    An explicitly named file is overwritten; in a folder, names that exist get a number, unless they
    are overwritten or skipped. `ucs` gives names of the Universal Category System in place of the
    `template`. Raises ValueError for a file that cannot be written.
    """
    from soundcrafter.filenames import free_path

    if template is not None and ucs is not None:
        raise ValueError("--name and --ucs cannot be combined")
    if overwrite and skip_existing:
        raise ValueError("--overwrite and --skip-existing cannot be combined")
    named = output is not None and output.suffix != "" and not output.is_dir()
    if output is not None and named:
        if template is not None:
            raise ValueError(f"name: {output} is a file; --name needs a folder as --output")
        if ucs is not None:
            raise ValueError(f"ucs: {output} is a file; --ucs needs a folder as --output")
        files = _numbered(output, len(jobs))
    else:
        folder, width = output or Path(), len(str(jobs[-1].row))
        several = len({job.row for job in jobs}) > 1
        files = [
            folder / f"{file_name(job, template, index, width if several else 0, ucs)}.wav"
            for index, job in enumerate(jobs, 1)
        ]
    assigned: list[OutputJob] = []
    taken: set[Path] = set()
    for job, file in zip(jobs, files, strict=True):
        on_disk = not (named or overwrite or skip_existing)
        file = free_path(
            file,
            taken,
            on_disk=on_disk,
            suffixes=[".png"] if plot else [],
            mark="-" if ucs is None else "v",  # UCS reserves "-"
        )
        taken.add(file)
        if not (skip_existing and file.is_file()):
            assigned.append(replace(job, file=file))
    for job in assigned:
        check_target(job.file, plot=plot, may_be_new=not named)
    return assigned


def _numbered(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    width = len(str(count))
    return [
        output.with_name(f"{output.stem}-{number:0{width}d}{output.suffix}")
        for number in range(1, count + 1)
    ]


def file_name(
    job: OutputJob, template: str | None, index: int, width: int, ucs: "UcsNaming | None"
) -> str:
    """Build a file name without its suffix. `width`: digits of the prompt's number; 0: none."""
    from soundcrafter.filenames import check_name, expand_name, slug

    if ucs is not None:
        return ucs.name(job.prompt, job.seed, job.name)
    if template is None:
        # a user-given name is kept as it is
        number = f"{job.row:0{width}d}-" if width and not job.name else ""
        template = f"{number}{{name}}" + ("" if job.name and job.take == 1 else "-{seed}")
    name = job.name or slug(job.prompt)
    if job.name:
        check_name(job.name)
    return expand_name(
        template, index=index, name=name, slug=slug(job.prompt), seed=job.seed, take=job.take
    )


def check_target(file: Path, *, plot: bool = False, may_be_new: bool = False) -> None:
    """Raise ValueError if a sound, or with `plot` its picture, cannot be written to a file.

    `may_be_new`: its folder may be created.
    """
    from soundcrafter.audio import check_write_suffix

    try:
        check_write_suffix(file.suffix)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for target in (file, file.with_suffix(".png")) if plot else (file,):
        if os.path.lexists(target) and not target.is_file():
            raise ValueError(f"{target}: cannot write: it exists and is not a file")
    if len(file.name.encode(errors="replace")) > MAX_BYTES:
        raise ValueError(f"{file}: cannot write: the name has more than {MAX_BYTES} bytes")
    folder = file.parent
    if may_be_new:  # needs an existing ancestor
        folder = next(place for place in file.absolute().parents if place.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"{folder}: the folder does not exist or is not writable")
