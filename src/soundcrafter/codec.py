"""Between waves and latents: the VAE and the vocoder, in pieces that bound memory."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F

from soundcrafter.audio import join_ends
from soundcrafter.cpu.memory import limit_heap, trim_heap
from soundcrafter.diffusion.windows import blend_windows
from soundcrafter.mel import LogMel
from soundcrafter.models.griffin_lim import PhaseStream
from soundcrafter.models.spectral import SpectralVocoder
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder

PIECE_SECONDS = 10.24  # longer sounds go through the VAE and the vocoder in pieces
# Seconds beside the seam of a loop that the decoder sees on both sides, and of the cross-fade there
LOOP_CONTEXT, LOOP_FADE = 1.0, 0.1


class Codec:
    """A VAE and a vocoder on one device."""

    def __init__(self, vae: VAE, vocoder: Vocoder, device: torch.device) -> None:
        self.vae, self.vocoder, self.device = vae, vocoder, device

    @property
    def sample_rate(self) -> int:
        """Hz, of its waves."""
        return self.vocoder.config.mel.sample_rate

    @property
    def frame_seconds(self) -> float:
        """The length of a latent frame."""
        config = self.vae.config
        return config.stride[0] * config.mel.hop / config.mel.sample_rate

    @torch.inference_mode()
    def encode(self, wave: np.ndarray, frames: int | None = None) -> torch.Tensor:
        """wave [N] at the model's rate -> latent [1, C, T, F], with silence up to `frames`.

        Longer waves are encoded in overlapping windows, as `decode` decodes.
        """
        config = self.vae.config
        mel = LogMel(config.mel).to(self.device)(torch.from_numpy(wave)[None].to(self.device))
        least = math.ceil(mel.shape[2] / config.stride[0])
        wanted = (frames or least) * config.stride[0]
        mel = F.pad(mel, (0, 0, 0, max(0, wanted - mel.shape[2])), value=config.mel.log_floor)
        return self._in_windows(self.vae.encode, mel[:, :, :wanted], config.stride[0], 1)

    @torch.inference_mode()
    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """latent [B, C, T, F] -> log-mel [B, 1, T', F'], float32."""
        return self._in_windows(self.vae.decode, latent, 1, self.vae.config.stride[0])

    def _in_windows(
        self, apply: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, taken: int, given: int
    ) -> torch.Tensor:
        """Apply a half of the VAE to x [B, C, T, F], which has `taken` rows for each latent frame;
        the result has `given`."""
        window, frames = round(PIECE_SECONDS / self.frame_seconds), x.shape[2] // taken
        with self._keeping_little(self.vae):
            if frames <= window:
                return apply(x)
            # group norms and attention depend on the whole window; without overlap there would be
            # seams
            return blend_windows(
                lambda span: apply(x[:, :, taken * span.start : taken * span.stop]),
                frames,
                window,
                window // 4,
                given,
            )

    @torch.inference_mode()
    def vocode(self, mel: torch.Tensor) -> torch.Tensor:
        """log-mel [B, 1, T, F] -> wave [B, N], float32."""
        config = self.vocoder.config.mel
        # convolutional vocoders redo filter setup per piece, so use fewer, longer pieces
        pieces = 2 if isinstance(self.vocoder, SpectralVocoder) else 1
        frames = round(PIECE_SECONDS / pieces * config.sample_rate / config.hop)
        with self._keeping_little(self.vocoder):
            return vocode_in_pieces(self.vocoder, mel, frames)

    def _keeping_little(self, network: torch.nn.Module) -> AbstractContextManager[None]:
        return limit_heap(network) if self.device.type == "cpu" else nullcontext()

    def stream(self, mels: Iterable[torch.Tensor], overlap: int) -> Iterator[np.ndarray]:
        """Vocode an endless mel that arrives in windows [1, 1, T, F]; yields waves [N] that join.

        The last `overlap` frames of a window are blended with the first of the next. The waves are
        later than the windows by those frames and the vocoder's receptive field. Memory does not
        grow.
        """
        rise = (torch.arange(overlap, device=self.device) + 0.5)[:, None] / overlap
        last: torch.Tensor | None = None

        def joined() -> Iterator[torch.Tensor]:
            nonlocal last
            for mel in mels:
                if last is not None:
                    blended = torch.lerp(last, mel[:, :, :overlap], rise)
                    mel = torch.cat([blended, mel[:, :, overlap:]], 2)
                last = mel[:, :, -overlap:].clone()
                yield mel[:, :, :-overlap]

        for wave in vocode_stream(self.vocoder, joined()):
            yield wave[0].float().cpu().numpy()

    @torch.inference_mode()
    def decode_loop(self, latent: torch.Tensor) -> np.ndarray:
        """latent [1, C, T, F] -> wave [N] whose end is followed by its start."""
        config, frames = self.vae.config, latent.shape[2]
        frame = config.stride[0] * config.mel.hop  # samples
        before = min(frames, math.ceil(LOOP_CONTEXT * self.sample_rate / frame))
        around = torch.cat([latent[:, :, -before:], latent, latent[:, :, :before]], 2)
        wave = self.vocode(self.decode(around))[0].float().cpu().numpy()
        start, end = before * frame, (before + frames) * frame
        fade = min(round(LOOP_FADE * self.sample_rate), before * frame)
        return join_ends(wave[start:end], wave[end : end + fade])


def vocode_stream(vocoder: Vocoder, mels: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """log-mels [B, 1, T, F] that follow each other -> waves [B, N] that follow each other.

    Together they equal the wave of the whole mel, except for rounding and for its last
    `config.context` frames, which wait for what comes next. Each mel must be longer than that.
    """
    context, hop = vocoder.config.context, vocoder.config.mel.hop
    phases = PhaseStream(vocoder.config.mel) if isinstance(vocoder, SpectralVocoder) else None
    seen: torch.Tensor | None = None
    low = done = 0  # frames before `seen`, and frames that have been vocoded
    for mel in mels:
        seen = mel if seen is None else torch.cat([seen, mel], 2)
        high = low + seen.shape[2]
        extra = () if phases is None else (phases.between(low, high + 2),)
        with torch.inference_mode():
            wave = vocoder(seen, *extra)
        yield wave[:, (done - low) * hop : (high - context - low) * hop]
        done = high - context
        cut = max(done - context - low, 0)
        seen, low = seen[:, :, cut:].clone(), low + cut
        trim_heap()


def vocode_in_pieces(vocoder: Vocoder, mel: torch.Tensor, frames: int) -> torch.Tensor:
    """log-mel [B, 1, T, F] -> wave [B, T * hop], in pieces of about `frames`.

    Each piece is padded by the receptive field (`config.context`), so the result equals that of
    the whole mel, except for rounding.
    """
    count, config = mel.shape[2], vocoder.config
    context, hop = config.context, config.mel.hop
    frames = max(frames, 6 * context)  # or too much of a piece would be computed twice
    if count <= frames + context:
        return vocoder(mel)
    phases = PhaseStream(config.mel) if isinstance(vocoder, SpectralVocoder) else None
    out = torch.empty(len(mel), count * hop, device=mel.device)
    end = 0
    while end < count:
        start, low = end, max(end - context, 0)
        end = min(low + frames, count)
        high = min(end + context, count)
        extra = () if phases is None else (phases.between(low, high + 2),)
        wave = vocoder(mel[:, :, low:high], *extra)
        out[:, start * hop : end * hop] = wave[:, (start - low) * hop : (end - low) * hop]
        trim_heap()  # freed here, or memory fragments
    return out
