"""The command that serves: an HTTP API, and the studio."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from soundcrafter.cli.common import DeviceOption, PrecisionOption
from soundcrafter.cli.ray_options import RayOption, RayOptions, WorkerCpusOption, WorkersOption


def serve(
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name; the bundled model if not given.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 8321,
    folder: Annotated[Path, typer.Option(help="Folder for the queue, sounds and uploads.")] = Path(
        "soundcrafter-serve"
    ),
    database: Annotated[
        str | None,
        typer.Option(help="Database of the queue (postgresql://...); SQLite in the folder if not."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a token per line; clients must send one.")
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Let other machines in without a token.")
    ] = False,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Web origin whose pages may use the API. Repeatable."),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Adapter (LoRA) folder, or FOLDER:WEIGHT. Repeatable."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Sounds made at once.")] = 4,
    max_seconds: Annotated[float, typer.Option(help="Longest sound, in seconds.")] = 60.0,
    max_steps: Annotated[int, typer.Option(help="Most sampling steps.")] = 100,
    max_count: Annotated[int, typer.Option(help="Most sounds per request.")] = 8,
    max_upload_mib: Annotated[int, typer.Option(help="Largest upload, in MiB.")] = 50,
    max_queue: Annotated[int, typer.Option(help="Most jobs that wait.")] = 256,
    min_free_mib: Annotated[
        int, typer.Option(help="Free disk, in MiB, below which new jobs are refused.")
    ] = 200,
    studio: Annotated[bool, typer.Option(help="Serve the studio, too.")] = True,
    grace_seconds: Annotated[
        float, typer.Option(help="Seconds that running jobs have when the server is stopped.")
    ] = 10.0,
    lost_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds without a sign of life after which the jobs of another server's worker "
            "are made again, with --database."
        ),
    ] = 30.0,
    ray: RayOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
) -> None:
    """Serve sounds over HTTP, with a queue; see docs/serving.md, and docs/scale.md for --ray."""
    from soundcrafter.cli.generate import parse_adapters

    cluster = RayOptions.of(ray, workers, worker_cpus)

    try:
        from soundcrafter.serve.server import serve as run
        from soundcrafter.serve.settings import LOG_FORMAT, ServeSettings
    except ModuleNotFoundError as error:
        raise ValueError(
            f"serve: needs {error.name}; install it with: pip install 'soundcrafter[serve]'"
        ) from None

    settings = ServeSettings(
        host=host,
        port=port,
        model=model,
        device=device,
        precision=precision,
        adapters=parse_adapters(adapter or ()),
        folder=folder,
        database=database,
        batch_size=batch_size,
        max_seconds=max_seconds,
        max_steps=max_steps,
        max_count=max_count,
        max_upload_mib=max_upload_mib,
        max_queue=max_queue,
        min_free_mib=min_free_mib,
        studio=studio,
        grace_seconds=grace_seconds,
        lost_seconds=lost_seconds,
        token_file=token_file,
        open=open_to_all,
        origins=tuple(origin or ()),
    )
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT)

    out = sys.stdout  # with Ray another one stands in for it

    def started(address: str) -> None:
        print(f"serving at {address}", file=out, flush=True)

    if cluster is not None:
        with cluster.open(lambda: None, device) as room:
            from soundcrafter.cluster.serving import serve_on_ray

            serve_on_ray(
                settings,
                started,
                most=room.processes,
                replicas=workers,
                cpus=room.threads,
                gpus=room.gpus,
            )
    elif not run(settings, started):
        raise ValueError(f"port: cannot listen on {host}:{port}")
