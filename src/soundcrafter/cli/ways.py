"""What the command `evaluate` does, way by way."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from soundcrafter.evaluate.compare import SoundFiles

Advance = Callable[[int, int], None]
Measured = tuple[dict[str, Any], str]  # the report, and its text
Kind = Literal["pairs", "mos"]  # of a listening test
Listener = tuple[str, Path | None, str | None]  # an embedder's name, checkpoint and sha256


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command's parameters."""

    model: str | None
    generated: Path | None
    prompts: str | None
    chain: bool
    retrieval: bool
    composition: bool
    listen: Path | None
    reference: Path | None
    data: Path | None
    split: str
    out: Path
    keep: Path | None
    where: list[str] | None
    limit: int | None
    processes: int | None
    embedder: list[str] | None
    checkpoint: list[str] | None
    sha256: list[str] | None
    seeds: int | None
    seed: int
    splits: int
    paired: bool
    mixed_rates: bool
    system: list[str] | None
    kind: Kind | None
    count: int | None
    ratings: list[Path] | None
    device: str
    as_json: bool


def choose_way(asked: Asked) -> Callable[[Asked, Advance], Measured]:
    """The one way that was asked for. ValueError for none, two, and what it has no use for."""
    given = [way for way in _WAYS if getattr(asked, way)]
    if len(given) != 1:
        allowed = ", ".join(f"--{way}" for way in _WAYS)
        raise ValueError(f"evaluate: give one of {allowed}; got {len(given)}")
    (way,) = given
    for option, ways in _ONLY_WITH.items():
        if getattr(asked, option) is not None and way not in ways:
            raise ValueError(f"--{option}: only with --{' and --'.join(ways)}")
    if way in _FROM_DATA and (asked.data is None or asked.reference is not None):
        raise ValueError(f"--{way}: needs --data, real recordings, and no --reference")
    return _WAYS[way]


def _folder(asked: Asked, advance: Advance) -> Measured:
    """A folder of sounds against real ones."""
    from soundcrafter.evaluate.compare import compare_markdown
    from soundcrafter.evaluate.embedders import open_embedder
    from soundcrafter.evaluate.run import evaluate_folders

    assert asked.generated is not None
    opened = [open_embedder(n, checkpoint=file, sha256=sha) for n, file, sha in _listeners(asked)]
    report = evaluate_folders(
        asked.generated,
        _real_sounds(asked),
        opened,
        asked.out,
        splits=asked.splits,
        seed=asked.seed,
        paired=asked.paired,
        mixed_rates=asked.mixed_rates,
        progress=advance,
    )
    return report, compare_markdown(report)


def _prompts(asked: Asked, advance: Advance) -> Measured:
    """Sounds for prompts, made and measured by several processes."""
    from soundcrafter.bench.meter import machine_facts
    from soundcrafter.evaluate.compare import compare_markdown
    from soundcrafter.evaluate.generate import draw_prompts, plan_batches
    from soundcrafter.evaluate.jobs import open_tools
    from soundcrafter.evaluate.run import evaluate_prompts, prompts_named
    from soundcrafter.workers import Workers, share_cores

    assert asked.prompts is not None
    prompts = prompts_named(asked.prompts, asked.data, asked.split)
    seeds = 1 if asked.seeds is None else asked.seeds
    batches = plan_batches(draw_prompts(prompts, asked.limit, asked.seed), seeds, asked.seed)
    real = _real_sounds(asked)
    opened = partial(open_tools, asked.model, asked.device, _listeners(asked))
    tools = opened()
    processes, threads = share_cores(asked.processes, tools.model.device, len(batches))
    report = evaluate_prompts(
        tools.model,
        prompts,
        real,
        tools.embedders,
        asked.out,
        name=_model_name(asked.model),
        limit=asked.limit,
        data=asked.data,
        split=asked.split,
        seeds=seeds,
        seed=asked.seed,
        splits=asked.splits,
        workers=Workers(processes, threads, opened) if processes > 1 else None,
        machine=machine_facts(tools.model.device),
        keep=asked.keep,
        progress=advance,
    )
    return report, compare_markdown(report)


def _chain(asked: Asked, advance: Advance) -> Measured:
    """The model link by link; of one that cannot generate yet, VAE and vocoder."""
    from soundcrafter.device import choose_device
    from soundcrafter.evaluate.chain import chain_markdown, evaluate_chain
    from soundcrafter.evaluate.codec import Codec, open_codec
    from soundcrafter.hub import find_model
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.store import open_folder

    assert asked.data is not None
    folder, device = open_folder(find_model(asked.model)), choose_device(asked.device)
    model: SoundCrafter | Codec
    if {"clap_text", "unet"} <= set(folder.parts):
        model = SoundCrafter(folder, device, precision="fp32")
    else:
        model = open_codec(folder, device)
    report = evaluate_chain(
        model,
        asked.data,
        asked.out,
        keep=asked.keep,
        where=_pairs("--where", asked.where),
        split=asked.split,
        seeds=2 if asked.seeds is None else asked.seeds,
        seed=asked.seed,
        progress=advance,
    )
    return report, chain_markdown(report)


def _retrieval(asked: Asked, advance: Advance) -> Measured:
    """What the model's CLAP finds. Its other parts are not loaded, and may not be there yet."""
    from soundcrafter.evaluate.retrieval import evaluate_retrieval, retrieval_markdown
    from soundcrafter.hub import find_model
    from soundcrafter.store import open_folder

    assert asked.data is not None
    report = evaluate_retrieval(
        open_folder(find_model(asked.model)),
        asked.data,
        asked.out,
        split=asked.split,
        device=asked.device,
        progress=advance,
    )
    return report, retrieval_markdown(report)


def _composition(asked: Asked, advance: Advance) -> Measured:
    """Two sounds at once, and one after the other."""
    from soundcrafter.evaluate.composition import composition_markdown, evaluate_composition
    from soundcrafter.pipeline import SoundCrafter

    assert asked.data is not None
    report = evaluate_composition(
        SoundCrafter.from_pretrained(asked.model, asked.device, precision="fp32"),
        asked.data,
        asked.out,
        seeds=1 if asked.seeds is None else asked.seeds,
        seed=asked.seed,
        limit=asked.limit,
        progress=advance,
    )
    return report, composition_markdown(report)


def _listen(asked: Asked, advance: Advance) -> Measured:
    """A listening test for some systems, or what those who took it have answered."""
    from soundcrafter.evaluate.listen import KEY, PAGE, write_listening_test
    from soundcrafter.evaluate.listen_analysis import analyse_listening, listening_markdown
    from soundcrafter.files import write_json, write_text

    assert asked.listen is not None
    folder = asked.listen
    if asked.ratings:
        report = analyse_listening(asked.ratings, folder / KEY, seed=asked.seed)
        text = listening_markdown(report)
        write_json(folder / "listening.json", report)
        write_text(folder / "listening.md", text)
        return report, text
    systems = {name: Path(path) for name, path in _pairs("--system", asked.system).items()}
    if not systems:
        raise ValueError(
            "--listen: give --system NAME=FOLDER of what is to be heard, or --ratings FILE of what "
            "listeners said"
        )
    report = write_listening_test(
        systems, folder, kind=asked.kind or "pairs", seed=asked.seed, count=asked.count
    )
    text = (
        f"{folder / PAGE}  {report['items']} items, about {report['minutes']} minutes; it saves a "
        f"csv for --ratings. {folder / KEY} is not for listeners: it says what is what."
    )
    return report, text


_WAYS: dict[str, Callable[[Asked, Advance], Measured]] = {
    "generated": _folder,
    "prompts": _prompts,
    "chain": _chain,
    "retrieval": _retrieval,
    "composition": _composition,
    "listen": _listen,
}
_FROM_DATA = ("chain", "retrieval", "composition")
_ONLY_WITH = {
    "limit": ("prompts", "composition"),
    "processes": ("prompts",),
    "keep": ("chain", "prompts"),
    "where": ("chain",),
    **dict.fromkeys(("system", "kind", "count", "ratings"), ("listen",)),
}


def _real_sounds(asked: Asked) -> "SoundFiles":
    """The sounds to compare with."""
    from soundcrafter.evaluate.compare import find_recordings, find_sounds

    if asked.data is not None and asked.reference is None:
        return find_recordings(asked.data, asked.split)
    if asked.reference is not None and asked.data is None:
        return find_sounds(asked.reference, mixed_rates=asked.mixed_rates)
    raise ValueError("evaluate: give real sounds, --reference DIR or --data with --split")


def _listeners(asked: Asked) -> list[Listener]:
    """The embedders (tagger and clap where none is named), with their given weights."""
    weights = _pairs("--checkpoint", asked.checkpoint)
    hashes = _pairs("--sha256", asked.sha256)
    names = asked.embedder or ["tagger", "clap"]
    unused = sorted({*weights, *hashes} - set(names))
    if unused:
        raise ValueError(f"--checkpoint, --sha256: no --embedder {', '.join(unused)}")
    files = {name: Path(path) for name, path in weights.items()}
    return [(name, files.get(name), hashes.get(name)) for name in names]


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """NAME=VALUE options as a dict. ValueError for another form, and for a name given twice."""
    found: dict[str, str] = {}
    for text in given or ():
        name, _, value = text.partition("=")
        if not (name and value):
            raise ValueError(f"{option}: got {text!r}; expected NAME=VALUE")
        if name in found:
            raise ValueError(f"{option}: got {name} twice")
        found[name] = value
    return found


def _model_name(model: str | None) -> str:
    """What a model is called in tables."""
    from soundcrafter.hub import BUNDLED

    if model is None or model == BUNDLED:
        return "mini (bundled)"
    return Path(model).resolve().name if Path(model).exists() else model
