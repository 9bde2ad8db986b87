"""Settings of the server."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from soundcrafter.settings import check_at_least, check_range

DATABASE = "jobs.sqlite"
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Where the server listens, what it runs, what it allows."""

    host: str = "127.0.0.1"
    port: int = 8321  # 0: any free port
    model: str | None = None  # folder or hub name; None: the bundled model
    device: str = "auto"  # or several, separated by commas: a worker on each
    precision: str = "auto"
    adapters: Mapping[str, float] = field(default_factory=dict)  # folder -> weight
    folder: Path = Path("soundcrafter-serve")  # the database, sounds and uploads
    database: str | None = None  # SQLAlchemy URL; None: SQLite in the folder
    batch_size: int = 4  # sounds made at once
    max_seconds: float = 60.0  # longest sound
    max_steps: int = 100  # most sampling steps
    max_count: int = 8  # most sounds per request
    max_upload_mib: int = 50  # largest upload
    max_queue: int = 256  # most jobs that wait
    min_free_mib: int = 200  # of disk, below which new jobs are refused
    token_file: Path | None = None  # a token per line; None: no token is needed
    open: bool = False  # allow other machines without a token
    origins: tuple[str, ...] = ()  # web pages of other origins that may use the API (CORS)
    studio: bool = True  # serve the pages, too, if Gradio is installed
    wait_seconds: float = 300.0  # longest wait of a request for its sound
    grace_seconds: float = 10.0  # for the running jobs when the server stops
    lost_seconds: float = 30.0  # without a sign of life after which a worker's jobs go back

    def __post_init__(self) -> None:
        check_range(self, 0, 65_535, "port")
        check_range(self, 1, 1024, "batch_size")
        check_range(self, 0.2, 600, "max_seconds")
        check_at_least(self, 1, "max_steps", "max_count", "max_upload_mib", "max_queue")
        check_at_least(self, 0, "min_free_mib", "wait_seconds", "grace_seconds")
        check_at_least(self, 10, "lost_seconds")  # workers show signs of life every 5 s
        if not self.devices:
            raise ValueError("device: must not be empty")

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each worker."""
        return tuple(name.strip() for name in self.device.split(",") if name.strip())

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return self.database or f"sqlite:///{self.folder.absolute() / DATABASE}"

    @property
    def uploads(self) -> Path:
        """The folder of the uploads, each as SHA256.wav."""
        return self.folder / "uploads"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name, which may mean any address
            return False

    def check_access(self) -> None:
        """Raise ValueError if other machines could connect without a token."""
        if not (self.is_local or self.token_file or self.open):
            raise ValueError(
                f"host: {self.host} can be reached by other machines; give --token-file FILE, "
                "or --open to let everybody in"
            )


def read_tokens(file: Path | None) -> tuple[str, ...]:
    """The tokens in a file, one per line; lines that begin with # are comments.

    Raises ValueError for a file that is missing or contains none, and for a token that a header
    cannot carry.
    """
    if file is None:
        return ()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot read: {error}") from None
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise ValueError(f"{file}: contains no token")
    if not all(token.isascii() and token.isprintable() and " " not in token for token in tokens):
        raise ValueError(f"{file}: a token may contain only printable ASCII without spaces")
    return tokens
