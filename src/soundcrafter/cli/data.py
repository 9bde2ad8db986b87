"""Commands on recordings: look at them, encode them for training, bring AudioCaps."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from soundcrafter.cli.common import (
    AllowUnfinishedFlag,
    DataOption,
    DeviceOption,
    JsonFlag,
    RecipeOption,
    SetOption,
    progress,
    silent_libraries,
)
from soundcrafter.cli.ray_options import (
    RayOption,
    RayOptions,
    WorkerCpusOption,
    WorkersOption,
    optional_workers,
    progress_lines,
)

_SHOWN_ROWS = 5
TablesArgument = Annotated[
    list[Path],
    typer.Argument(help="AudioCaps csv (train, val, test); AudioLDM's or TANGO's json."),
]
AudioOption = Annotated[
    Path | None, typer.Option(help="Folder of clips that are there: fetch nothing.")
]
OnlyOption = Annotated[
    Path | None,
    typer.Option(help="Only these: csv (audiocap_id or youtube_id), json, text of ids."),
]
ExcludeOption = Annotated[
    Path | None, typer.Option(help="Clips to leave out, with all their captions; as --only.")
]
OneCaptionFlag = Annotated[
    bool, typer.Option("--one-caption", help="One caption a clip, drawn by the seed.")
]
RandomValidationOption = Annotated[
    float | None, typer.Option(help="Share of the train clips that becomes dev, as 0.1.")
]
RetryFailedFlag = Annotated[
    bool, typer.Option("--retry-failed", help="Also retry the clips in failures.csv.")
]


def check(
    data: Annotated[str, typer.Argument(help="Manifest (csv, jsonl), folder or shards.")],
    split: Annotated[str | None, typer.Option(help="One split only.")] = None,
    label_column: Annotated[str, typer.Option(help="Column that holds the label.")] = "label",
    decode: Annotated[bool, typer.Option("--decode", help="Decode every file in full.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Count recordings, seconds, captions and labels; list what cannot be read."""
    from soundcrafter.data.check import check_data

    show = decode and not as_json
    with silent_libraries(), progress("checking", show=show) as advance:
        facts = check_data(data, split, label_column, decode=decode, progress=advance)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for key in ("recordings", "minutes", "captions", "labels"):
        print(f"{key}: {facts[key]}")
    print(f"splits: {_counts(facts['splits']) or 'none named; all are trained on'}")
    print(f"skipped: {len(facts['skipped'])}")
    for file, reason in (*facts["skipped"], *facts["notes"]):
        print(f"  {file}: {reason}")


def pack(
    data: Annotated[str, typer.Argument(help="Manifest (csv, jsonl), folder or shards.")],
    out: Annotated[Path, typer.Option(help="Folder for part-01.tar and so on.")],
    split: Annotated[
        str, typer.Option(help="Split whose files are packed, or all of them: all.")
    ] = "train",
    label_column: Annotated[str, typer.Option(help="Column that holds the label.")] = "label",
    part_mib: Annotated[float, typer.Option(help="Largest size of a part in MiB.")] = 60.0,
    shards: Annotated[
        bool, typer.Option("--shards", help="WebDataset shards, 000000.tar and so on, instead.")
    ] = False,
) -> None:
    """Pack recordings and their table into archives of bounded size, to train elsewhere."""
    from soundcrafter.data.pack import pack as write_parts
    from soundcrafter.data.shard_writer import write_shards

    chosen = None if split == "all" else split
    if shards:
        parts, skipped = write_shards(
            data, out, split=chosen, label_column=label_column, shard_mib=part_mib
        )
    else:
        parts, skipped = write_parts(
            data, out, split=chosen, label_column=label_column, part_mib=part_mib
        )
    for part in parts:
        print(f"{part}  {part.stat().st_size / 2**20:.1f} MiB")
    for file, reason in skipped.items():
        print(f"skipped {file}: {reason}", file=sys.stderr)


def encode(
    recipe: RecipeOption,
    data: DataOption,
    model: Annotated[
        str,
        typer.Option(help="Model with VAE and CLAP; also supplies settings missing from [model]."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for latents and embeddings.")],
    overrides: SetOption = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Sounds encoded at once.")] = 16,
    shards: Annotated[
        float | None, typer.Option(help="Write shards, 000000.tar and so on, of so many MiB.")
    ] = None,
    device: DeviceOption = "auto",
    allow_unfinished: AllowUnfinishedFlag = False,
    as_json: JsonFlag = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
) -> None:
    """Compute latents and CLAP embeddings once, for training the U-Net from them."""
    from soundcrafter.files import read_json
    from soundcrafter.hub import find_model
    from soundcrafter.store import open_folder
    from soundcrafter.train.encode import EncodeTools, encode_data
    from soundcrafter.train.recipe import read_recipe

    folder = find_model(model)
    settings = read_recipe(recipe, overrides or (), open_folder(folder))
    how: dict[str, Any] = {"device": device, "dtype": dtype, "batch_size": batch_size}
    how["shard_mib"] = shards
    opened = partial(EncodeTools.open, settings, data, folder, **how)
    cluster = RayOptions.of(ray, workers, worker_cpus)
    with (
        optional_workers(cluster, opened, device) as pool,
        progress("encoding", show=not as_json and cluster is None) as advance,
    ):
        index = encode_data(
            settings,
            data,
            folder,
            out,
            **how,
            allow_unfinished=allow_unfinished,
            workers=pool,
            progress=advance if cluster is None else progress_lines("encoded", show=not as_json),
        )
    skipped = read_json(index)["skipped"]
    if as_json:
        print(json.dumps({"index": str(index), "skipped": skipped}, indent=2))
    else:
        print(f"{index}  skipped recordings: {len(skipped)}")


def audiocaps(
    tables: TablesArgument,
    out: Annotated[Path, typer.Option(help="Folder for manifest.csv and fetched clips.")],
    audio: AudioOption = None,
    only: OnlyOption = None,
    exclude: ExcludeOption = None,
    one_caption: OneCaptionFlag = False,
    random_validation: RandomValidationOption = None,
    limit: Annotated[int | None, typer.Option(help="So many clips, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    rate: Annotated[int, typer.Option(help="Hz of fetched clips.")] = 16_000,
    audio_format: Annotated[str, typer.Option("--format", help="wav or flac.")] = "wav",
    per_minute: Annotated[float, typer.Option(help="Tries a minute, at most.")] = 5.0,
    retries: Annotated[int, typer.Option(help="Retries after a network failure.")] = 2,
    retry_wait: Annotated[float, typer.Option(help="Seconds before them, doubled each time.")] = 30,
    retry_failed: RetryFailedFlag = False,
    cookies: Annotated[Path | None, typer.Option(help="cookies.txt for yt-dlp.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch AudioCaps' clips, or find them in a folder; write the manifest to train from."""
    from soundcrafter.data.audiocaps import prepare
    from soundcrafter.data.subset import Selection
    from soundcrafter.data.youtube import FetchOptions

    selection = Selection(
        one_caption=one_caption,
        random_validation=random_validation,
        only=only,
        exclude=exclude,
        limit=limit,
        seed=seed,
    )
    options = FetchOptions(
        rate=rate,
        format=audio_format,
        per_minute=per_minute,
        retries=retries,
        retry_wait=retry_wait,
        retry_failed=retry_failed,
        cookies=cookies,
    )
    with progress("fetching", show=not as_json) as advance:
        facts = prepare(
            tables, out, audio=audio, selection=selection, options=options, progress=advance
        )
    _report_audiocaps(facts, out, as_json)


def _report_audiocaps(facts: dict[str, Any], out: Path, as_json: bool) -> None:
    """Print what was done; ValueError where fetching had to stop."""
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print(f"{facts['manifest']}  clips: {facts['clips']}  captions: {facts['captions']}")
        print(f"splits: {_counts(facts['splits'])}")
        print(f"fetched now: {facts['fetched']}  failed: {facts['failed']}  (failures.csv)")
        print(f"missing: {facts['missing']}  ({out / 'missing.csv'})")
        if facts["broken_rows"]:
            print(f"broken rows, left out: {len(facts['broken_rows'])}")
            for reason in facts["broken_rows"][:_SHOWN_ROWS]:
                print(f"  {reason}")
        if facts["not_in_tables"]:
            print(f"listed but not in the tables: {facts['not_in_tables']}")
    if facts["stopped"]:
        raise ValueError(f"{facts['stopped']}; wait, lower --per-minute, run the same again")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())
