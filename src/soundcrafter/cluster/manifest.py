"""What a bulk job has made so far: a manifest, and the records that its workers write."""

import csv
import io
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from soundcrafter.cluster.folder import OutputFolder

PARQUET, CSV = "manifest.parquet", "manifest.csv"
RECORDS = "records"  # folder of what workers have made since the manifest was written
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.uint64()),
        ("score", pa.float64()),
        ("seconds", pa.float64()),
        ("time_taken", pa.float64()),
        ("error", pa.string()),
        ("digest", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """A row of the manifest: a sound, or why there is none."""

    id: str  # of the row in the file of prompts, and of the take
    prompt: str
    file: str | None = None  # within the folder
    seed: int | None = None
    score: float | None = None
    seconds: float | None = None  # of sound
    time_taken: float | None = None  # seconds of a worker
    error: str | None = None
    digest: str | None = None  # of all that decides how it sounds


def read_manifest(folder: OutputFolder) -> list[ManifestRow] | None:
    """The sounds that are there whole, by the manifest and the records; None for a folder without
    a manifest. Raises ValueError for a damaged one."""
    names = folder.names()
    if PARQUET not in names:
        return None
    try:
        rows = pq.read_table(io.BytesIO(folder.read(PARQUET))).to_pylist()
        for name in sorted(folder.names(RECORDS)):
            rows += json.loads(folder.read(f"{RECORDS}/{name}"))
        found = [ManifestRow(**row) for row in rows]
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise ValueError(f"{folder.url}: {PARQUET} cannot be read: {error}") from None
    whole = {made.file: made for made in found if made.error is None and made.file in names}
    return list(whole.values())


def write_record(folder: OutputFolder, rows: Sequence[ManifestRow]) -> None:
    """Write what a worker has made, under the name of the first."""
    folder.write(f"{RECORDS}/{rows[0].id}.json", json.dumps([asdict(row) for row in rows]).encode())


def write_manifest(folder: OutputFolder, rows: Iterable[ManifestRow]) -> None:
    """Write the manifest as Parquet and csv; the records are in it and go."""
    data = [asdict(row) for row in rows]
    parquet, text = io.BytesIO(), io.StringIO()
    pq.write_table(pa.Table.from_pylist(data, _SCHEMA), parquet)
    writer = csv.DictWriter(text, _SCHEMA.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(data)
    records: Collection[str] = folder.names(RECORDS)
    folder.write(CSV, text.getvalue().encode())
    folder.write(PARQUET, parquet.getvalue())
    for name in records:
        folder.remove(f"{RECORDS}/{name}")
