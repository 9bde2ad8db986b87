"""Export a model folder as ONNX files that `OnnxSoundCrafter` runs."""

import copy
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from soundcrafter.arguments import portable_name
from soundcrafter.byte_bpe import ByteBpe
from soundcrafter.codec import PIECE_SECONDS
from soundcrafter.files import file_sha256, make_folder, write_json
from soundcrafter.hub import BUNDLED, find_model
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.griffin_lim import random_phases
from soundcrafter.models.spectral import SpectralVocoder
from soundcrafter.models.unet import UNet
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.onnx.convert import OPSET, half_weights, to_onnx
from soundcrafter.onnx.folder import (
    AUDIO,
    FAST,
    FORMAT,
    SETTINGS,
    TOKENIZER,
    AudioSettings,
    LatentSettings,
    OnnxPart,
    OnnxSettings,
    TextSettings,
    VocoderSettings,
)
from soundcrafter.onnx.graphs import AudioGraph, DecoderGraph
from soundcrafter.onnx.quantize import LIMIT, Trajectories, quantize, runner, trajectories
from soundcrafter.onnx.spectral_graph import spectral_to_onnx
from soundcrafter.settings import to_dict
from soundcrafter.store import ModelFolder, open_folder
from soundcrafter.version import __version__

Weights = Literal["fp32", "fp16", "int8"]
# The largest error of a part's output, relative to its peak, beside torch in float32.
TOLERANCES: dict[Weights, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8": 1e-2}
# Griffin-Lim amplifies rounding in each round, so the graph is compared after a few.
_CHECKED_ROUNDS = 2
_CARD = ("README.md", "CREDITS.csv", "curves.png")
_LEAST_FRAMES = 20  # of the mels that parts are checked with


@dataclass(frozen=True)
class ExportedPart:
    """What became of a part."""

    name: str
    size: int  # bytes
    error: float  # the largest beside torch, relative to the peak
    moved: float | None = None  # by int8: latents, relative to the distance of another seed


@dataclass(frozen=True, eq=False)
class _Part:
    """A part to export."""

    name: str
    source: str  # its name in the model folder
    convert: Callable[[], onnx.ModelProto]
    network: Callable[..., Tensor]  # what the graph has to equal
    inputs: tuple[tuple[Tensor, ...], ...]  # of two lengths and batch sizes
    more: tuple[Any, ...] = ()  # inputs of the graph alone
    buffers: tuple[str, ...] = ()  # names of tables, which keep their precision
    trajectories: Callable[[], Trajectories] | None = None  # of what int8 quantises


def export_onnx(
    model: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    weights: str = "fp32",
    report: Callable[[ExportedPart], None] = lambda part: None,
) -> list[str]:
    """Export a model (a folder, a hub name, None for the bundled one) into the new folder `out`.

    Every part is compared with torch. `weights`: "fp32"; "fp16", half the space; "int8", as fp16,
    but the U-Net's convolutions are also computed in int8, which is faster on a CPU. `report` is
    called after each part. Returns remarks on what the export lacks. Raises ValueError for an
    unknown dtype, an incomplete model, a folder that is not empty, a part that ONNX lacks an
    operation for or that differs from torch by more than TOLERANCES, and an int8 U-Net that moves
    its sounds too far; then nothing is written.
    """
    for known in get_args(Weights):
        if weights == known:
            break
    else:
        raise ValueError(f"weights: got {weights!r}; allowed: {', '.join(get_args(Weights))}")
    folder = open_folder(find_model(model))
    folder.require("clap_text", "vae", "unet", "vocoder")
    name = BUNDLED if model is None else portable_name(model)
    remarks: list[str] = []
    with _new_folder(Path(out)) as place:
        networks = _load(folder, remarks)
        files = {}
        for part in _parts(networks, folder):
            files[part.name] = _write(part, place, known, folder, report)
        _copy(folder, place)
        settings = _settings(folder, networks, name, known, files, place)
        write_json(place / SETTINGS, to_dict(settings))
    return remarks


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` at the end, if nothing fails."""
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    if os.path.lexists(out):
        raise ValueError(f"{out}: exists already; choose another folder")
    parent = make_folder(out.absolute().parent)
    try:
        place = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    except OSError as error:
        raise ValueError(f"{out}: cannot create the folder: {error.strerror}") from None
    try:
        yield place
        place.chmod(0o777 & ~_umask())
        place.rename(out)
    except OSError as error:
        raise ValueError(f"{out}: cannot write: {error.strerror or error}") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass(frozen=True, eq=False)
class _Networks:
    text: ClapText
    audio: ClapAudio | None
    unet: UNet
    unet_fast: UNet | None
    vae: VAE
    vocoder: Vocoder


def _load(folder: ModelFolder, remarks: list[str]) -> _Networks:
    audio = cast(ClapAudio, folder.load("clap_audio")) if "clap_audio" in folder.parts else None
    if audio is not None and audio.config.tower != "conv":
        remarks.append("without the audio tower, which is transformers': no scores, no candidates")
        audio = None
    return _Networks(
        cast(ClapText, folder.load("clap_text")),
        audio,
        cast(UNet, folder.load("unet")),
        cast(UNet, folder.load(FAST)) if FAST in folder.parts else None,
        cast(VAE, folder.load("vae")),
        cast(Vocoder, folder.load("vocoder")),
    )


def _parts(networks: _Networks, folder: ModelFolder) -> Iterator[_Part]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    vae, unet, text = networks.vae, networks.unet, networks.text
    multiple, config = unet.config.stride[0], vae.config
    frames = max(_LEAST_FRAMES, networks.vocoder.config.min_frames)
    short = math.ceil(frames / config.stride[0] / multiple) * multiple
    sizes = ((2, 2 * short), (1, short))
    rows = config.mel.num_mels // config.stride[1]
    latents = [normal(batch, config.latent_channels, length, rows) for batch, length in sizes]
    tokens = [_tokens(text, batch, length) for batch, length in ((2, 7), (1, 4))]
    yield _Part(
        "clap_text",
        "clap_text",
        lambda: to_onnx(text, tokens[0], ((0, 1), (0, 1)), ("tokens", "mask"), ("embedded",)),
        text,
        tuple(tokens),
    )
    denoised = tuple(
        (x, torch.full((len(x),), 500.0), normal(len(x), unet.config.embed_dim)) for x in latents
    )
    for name, each in (("unet", unet), (FAST, networks.unet_fast)):
        if each is not None:
            yield _unet_part(name, each, denoised, folder)
    decoder = DecoderGraph(vae)
    yield _Part(
        "vae_decoder",
        "vae",
        lambda: to_onnx(decoder, (latents[0],), ((0, 2),), ("latent",), ("mel",)),
        decoder,
        tuple((x,) for x in latents),
    )
    with torch.no_grad():
        mels = [vae.decode(x) for x in latents]
    yield _vocoder_part(networks.vocoder, mels)
    if networks.audio is not None:
        audio = AudioGraph(networks.audio)
        bands = networks.audio.config.mel.num_mels
        heard = tuple((normal(len(x), 1, x.shape[2], bands) - 5,) for x in mels)
        yield _Part(
            AUDIO,
            "clap_audio",
            lambda: to_onnx(audio, heard[0], ((0, 2),), ("mel",), ("embedded",)),
            audio,
            heard,
        )


def _unet_part(
    name: str, unet: UNet, inputs: tuple[tuple[Tensor, ...], ...], folder: ModelFolder
) -> _Part:
    return _Part(
        name,
        name,
        lambda: to_onnx(
            unet, inputs[0], ((0, 2), (0,), (0,)), ("latent", "t", "cond"), ("prediction",)
        ),
        unet,
        inputs,
        trajectories=lambda: trajectories(folder, name, unet),
    )


def _tokens(text: ClapText, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Random tokens and their mask [B, L]; the last row of several is padded."""
    config = text.config
    length = min(length, config.max_length)
    ids = torch.arange(batch * length).view(batch, length) * 7 % config.vocab_size
    ids[(ids == config.pad_id) | (ids == config.eos_id)] = config.bos_id
    mask = torch.ones_like(ids)
    ids[:, 0], ids[:, -1] = config.bos_id, config.eos_id
    if batch > 1:
        ids[-1, -2:] = torch.tensor([config.eos_id, config.pad_id])
        mask[-1, -1] = 0
    return ids, mask


def _vocoder_part(vocoder: Vocoder, mels: list[Tensor]) -> _Part:
    if not isinstance(vocoder, SpectralVocoder):
        return _Part(
            "vocoder",
            "vocoder",
            lambda: to_onnx(vocoder, (mels[0],), ((0, 2),), ("mel",), ("wave",)),
            vocoder,
            tuple((mel,) for mel in mels),
        )
    config = vocoder.config
    inputs = tuple((mel, random_phases(mel.shape[2], config.mel)) for mel in mels)
    rounds = min(_CHECKED_ROUNDS, config.iterations)
    few = copy.copy(vocoder)
    few.config = replace(config, iterations=rounds)
    return _Part(
        "vocoder",
        "vocoder",
        lambda: spectral_to_onnx(vocoder, inputs[0]),
        few,
        inputs,
        more=(np.array(rounds),),
        buffers=("filters", "spread"),
    )


def _write(
    part: _Part,
    place: Path,
    weights: Weights,
    folder: ModelFolder,
    report: Callable[[ExportedPart], None],
) -> OnnxPart:
    """Export and check a part."""
    file, moved = place / f"{part.name}.onnx", None
    try:
        proto = part.convert()
        if weights != "fp32":
            half_weights(proto, part.buffers)
        onnx.save(proto, file)
        error = _error(part, file)
        if not error <= TOLERANCES[weights]:
            raise ValueError(
                f"the exported part differs from torch by {error:.2g} of its peak; "
                f"allowed: {TOLERANCES[weights]:g}"
            )
        if weights == "int8" and part.trajectories is not None:
            moved = _quantize(part.convert(), part.trajectories(), file)
    except ValueError as failure:
        raise ValueError(f"{part.name}: {failure}") from None
    report(ExportedPart(part.name, file.stat().st_size, error, moved))
    return OnnxPart(
        file=file.name,
        sha256=file_sha256(file),
        training_id=folder.parts[part.source].training_id,
    )


def _quantize(proto: onnx.ModelProto, ways: Trajectories, file: Path) -> float:
    """Write the graph in int8, and return how far it moves sounds."""
    quantized = quantize(proto, ways.inputs)
    half_weights(quantized)
    onnx.save(quantized, file)
    moved = ways.moved_by(runner(file))
    if not moved <= LIMIT:
        raise ValueError(
            f"in int8 its latents are moved by {moved:.2g} of the distance to another seed's; "
            f"allowed: {LIMIT:g}; export it in fp16"
        )
    return moved


def _error(part: _Part, file: Path) -> float:
    """The largest difference from torch, relative to the peak."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    every = [*session.get_inputs(), *session.get_overridable_initializers()]
    errors = []
    for inputs in part.inputs:
        arrays = [*(x.numpy() for x in inputs), *part.more]
        named = {each.name: array for each, array in zip(every, arrays, strict=True)}
        with torch.no_grad():
            wanted = part.network(*inputs).numpy()
        found = session.run(None, named)[0]
        if found.shape != wanted.shape:
            return math.inf
        errors.append(float(np.abs(found - wanted).max() / np.abs(wanted).max()))
    return max(errors)


def _copy(folder: ModelFolder, place: Path) -> None:
    """The tokenizer, and the model card with its credits."""
    folder.load_tokenizer()  # refuses a damaged one
    ByteBpe.load(folder.path / TOKENIZER)  # and one that the runtime does not read
    for name in (TOKENIZER, *_CARD):
        if (folder.path / name).is_file():
            shutil.copyfile(folder.path / name, place / name)


def _settings(
    folder: ModelFolder,
    networks: _Networks,
    name: str,
    weights: str,
    files: dict[str, OnnxPart],
    place: Path,
) -> OnnxSettings:
    vae, unet, vocoder, audio = networks.vae, networks.unet, networks.vocoder, networks.audio
    is_spectral = isinstance(vocoder, SpectralVocoder)
    sampling = replace(folder.sampling, reuse=1)
    return OnnxSettings(
        format=FORMAT,
        soundcrafter=__version__,
        model=name,
        opset=OPSET,
        weights=weights,
        parts=files,
        diffusion=folder.diffusion,
        sampling=sampling if audio is not None else replace(sampling, candidates=1),
        text=TextSettings(max_length=networks.text.config.max_length),
        audio=None
        if audio is None
        else AudioSettings(
            mel=audio.config.mel,
            max_seconds=audio.config.max_seconds,
            min_samples=audio.config.min_samples,
        ),
        latent=LatentSettings(
            channels=vae.config.latent_channels,
            rows=vae.config.mel.num_mels // vae.config.stride[1],
            mel_frames=vae.config.stride[0],
            multiple=unet.config.stride[0],
            scale=float(vae.latent_scale),
            null_cond=tuple(unet.null_cond.tolist()),
        ),
        vocoder=VocoderSettings(
            mel=vocoder.config.mel,
            context=vocoder.config.context,
            phase_bins=vocoder.config.mel.n_fft // 2 + 1 if is_spectral else 0,
            # convolutional vocoders take half as long pieces in `codec`
            piece_seconds=PIECE_SECONDS / (2 if is_spectral else 1),
        ),
        tokenizer_sha256=file_sha256(place / TOKENIZER),
        fast_steps=folder.parts[FAST].config.steps if FAST in folder.parts else 0,
    )
