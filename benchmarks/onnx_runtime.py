"""An exported model beside the model it is of: equal sounds, time and memory of a cold start.

python benchmarks/onnx_runtime.py EXPORTED [MODEL]
"""

import json
import os
import subprocess
import sys

import numpy as np

PROMPTS = ("a dog barks", "rain", "church bells ring", "a door slams", "thunder", "birdsong")
SECONDS = 3.0
COLD = """
import json, resource, sys, time
start = time.perf_counter()
if sys.argv[1] == "torch":
    from soundcrafter import SoundCrafter as Crafter
else:
    for name in ("torch", "transformers"):
        sys.modules[name] = None
    from soundcrafter.onnx import OnnxSoundCrafter as Crafter
crafter = Crafter.from_pretrained(sys.argv[2] or None)
imported = time.perf_counter() - start
crafter.generate("a dog barks twice", seconds=5.0)
print(json.dumps({
    "ready": imported,
    "all": time.perf_counter() - start,
    "cpu": time.process_time(),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def main() -> None:
    exported, model = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else None)
    for kind, folder in (("onnx", exported), ("torch", model or "")):
        command = [sys.executable, "-c", COLD, kind, folder]
        found = [json.loads(subprocess.check_output(command)) for _ in range(3)]
        best = min(found, key=lambda each: each["all"])
        print(
            f"{kind}: a cold start and 5 s of sound {best['all']:.1f} s (loaded after "
            f"{best['ready']:.1f} s, CPU time {best['cpu']:.1f} s), peak {best['peak']:.0f} MB"
        )
    print(f"load of the machine: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; best of 3")
    compare(exported, model)


def compare(exported: str, model: str | None) -> None:
    """Print how far the sounds of both differ."""
    import torch

    from soundcrafter import SoundCrafter
    from soundcrafter.mel_bands import log_mel
    from soundcrafter.onnx import OnnxSoundCrafter

    ours = OnnxSoundCrafter.from_pretrained(exported)
    theirs = SoundCrafter.from_pretrained(model, "cpu", precision="fp32")
    rows = []
    for prompt in PROMPTS:
        (x,), (y,) = (each.generate(prompt, seconds=SECONDS) for each in (ours, theirs))
        assert x.latent is not None
        assert y.latent is not None
        mel = theirs.decode(torch.from_numpy(y.latent)[None]).numpy()
        config = ours.settings.vocoder.mel
        heard, wanted = log_mel(x.wave, config), log_mel(y.wave, config)
        loud = wanted > wanted.max() - np.log(1000)  # down to 60 dB below the peak
        decibels = 20 / np.log(10) * np.abs(heard - wanted)[loud]
        rows.append(
            (
                np.abs(ours.decode(x.latent[None]) - mel).max() / np.abs(mel).max(),
                np.abs(x.wave - y.wave).max() / np.abs(y.wave).max(),
                np.quantile(decibels, 0.95),
                abs((x.score or 0.0) - (y.score or 0.0)),
            )
        )
    names = ("mel, of its peak", "wave, of its peak", "95% of the spectrogram within dB", "score")
    for name, values in zip(names, np.transpose(rows), strict=True):
        print(f"{name}: median {np.median(values):.2g}, largest {values.max():.2g}")
    print(f"{len(PROMPTS)} prompts, {SECONDS:g} s, seed 0")


if __name__ == "__main__":
    main()
