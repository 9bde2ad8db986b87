"""`generate --ray`: sounds of many prompts, made on a cluster."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundcrafter.cli.jobs import file_name
from soundcrafter.cli.ray_options import RayOptions, progress_lines
from soundcrafter.filenames import expand_name, free_path
from soundcrafter.output_jobs import OutputJob, plan_jobs

if TYPE_CHECKING:
    from soundcrafter.cluster.manifest import ManifestRow
    from soundcrafter.prompt_file import PromptRow
    from soundcrafter.ucs import UcsNaming

# Options of `generate` that belong to a single sound, or to files on this machine.
_REFUSED = ("prompt", "mix", "stems", "plot", "sidecar", "overwrite", "skip_existing")
_SHOWN = 10  # failures


def check_bulk(given: set[str], output: str | None, seed: int, template: str | None) -> None:
    """Raise ValueError for options of `generate` that --ray does not go with."""
    from soundcrafter.audio import WRITE_SUFFIXES

    for name in _REFUSED:
        if name in given:
            option = name if name == "prompt" else f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} cannot be combined with --ray")
    if "prompts" not in given:
        raise ValueError("--ray requires --prompts FILE")
    if output is None or output == "-" or Path(output).suffix.lower() in WRITE_SUFFIXES:
        raise ValueError("--ray requires a folder or a URL as --output")
    if seed == -1:
        raise ValueError("seed: got -1; --ray needs fixed seeds, to go on after an interruption")
    if template is not None:
        expand_name(template, index=1, name="name", slug="slug", seed=0, take=1)


@dataclass(frozen=True, kw_only=True)
class BulkPlan:
    """How the rows of a file of prompts become sounds."""

    options: dict[str, Any]  # for `plan_jobs`
    compose: str
    fill: bool
    morph_to: str
    template: str | None  # of file names
    naming: "UcsNaming | None"

    def jobs(
        self, rows: "Sequence[PromptRow]"
    ) -> "tuple[list[OutputJob], list[tuple[int, str, str]]]":
        """The sounds of all rows, and (number, prompt, error) of rows that cannot be made."""
        jobs: list[OutputJob] = []
        refused: list[tuple[int, str, str]] = []
        taken: set[Path] = set()
        width = len(str(len(rows))) if len(rows) > 1 else 0
        for number, row in enumerate(rows, 1):
            try:
                planned = self._row(row, number)
                files = [
                    file_name(job, self.template, len(jobs) + place, width, self.naming)
                    for place, job in enumerate(planned, 1)
                ]
            except ValueError as error:
                refused.append((number, row.prompt, str(error)))
                continue
            mark = "-" if self.naming is None else "v"  # UCS reserves "-"
            for job, stem in zip(planned, files, strict=True):
                file = free_path(Path(f"{stem}.wav"), taken, mark=mark)
                taken.add(file)
                jobs.append(replace(job, file=file))
        return jobs, refused

    def _row(self, row: "PromptRow", number: int) -> list[OutputJob]:
        if row.options.get("seed") == -1:
            raise ValueError("seed: got -1; --ray needs fixed seeds")
        jobs = plan_jobs(
            [row],
            self.options,
            None,
            compose=self.compose,
            fill=self.fill,
            morph_to=self.morph_to,
            first=number,
        )
        composed = any(job.scene is not None and not job.one_pass for job in jobs)
        if composed and self.options["loop"]:
            raise ValueError("--loop requires a single event per prompt, or --compose off")
        if composed and self.options["trim"] is not None:
            raise ValueError("--trim and --no-trim require a single event, or --compose off")
        return jobs


def generate_on_ray(
    rows: "Sequence[PromptRow]",
    plan: BulkPlan,
    ray: RayOptions,
    output: str,
    settings: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    """Make the sounds of all rows on Ray; returns the exit status, 1 if some failed.

    `settings` are those of `BulkSettings`.
    """
    jobs, refused = plan.jobs(rows)
    opened = partial(_open_tools, settings, output)
    with ray.open(opened, settings["device"]) as workers:
        from soundcrafter.cluster.generate import BulkSettings, generate_bulk, row_id
        from soundcrafter.cluster.manifest import ManifestRow

        results = generate_bulk(
            workers,
            jobs,
            output,
            BulkSettings(**settings),
            refused=[
                ManifestRow(id=row_id(number), prompt=prompt, error=error)
                for number, prompt, error in refused
            ],
            progress=progress_lines("sounds", show=not as_json),
        )
    return _report(results, output, as_json)


def _open_tools(settings: dict[str, Any], url: str) -> Any:
    from soundcrafter.cluster.generate import BulkSettings, BulkTools

    return BulkTools.open(BulkSettings(**settings), url)


def _report(results: "Sequence[ManifestRow]", output: str, as_json: bool) -> int:
    failed = [row for row in results if row.error is not None]
    if as_json:
        print(json.dumps([asdict(row) for row in results], indent=2))
    else:
        seconds = sum(row.seconds or 0.0 for row in results)
        made = len(results) - len(failed)
        print(f"{output}  {made} sounds, {seconds:.1f} s in all; the list is manifest.csv")
    for row in failed[:_SHOWN]:
        print(f"failed: {row.id}: {row.prompt}: {row.error}", file=sys.stderr)
    if failed:
        print(
            f"{len(failed)} of {len(results)} sounds failed, see manifest.csv; the same command "
            "tries them again",
            file=sys.stderr,
        )
    return 1 if failed else 0
