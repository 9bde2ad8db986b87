"""The example in C++ makes the sounds of the runtime in Python.

It is compiled where CMake, a compiler and ONNX Runtime's headers are: ONNXRUNTIME_INCLUDE names the
folder of onnxruntime_cxx_api.h, ONNXRUNTIME_LIBRARY a library other than that of the wheel.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundcrafter.onnx import OnnxSoundCrafter
from soundcrafter.text import Tokenizer

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp"
HEADER = "onnxruntime_cxx_api.h"
PLACES = ("/usr/include", "/usr/include/onnxruntime", "/usr/local/include/onnxruntime")
PROMPT = "a dog barks"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    onnxruntime = pytest.importorskip("onnxruntime")
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    places = [os.environ.get("ONNXRUNTIME_INCLUDE"), *PLACES]
    headers = next((each for each in places if each and (Path(each) / HEADER).is_file()), None)
    if headers is None:
        pytest.skip(f"no {HEADER}: set ONNXRUNTIME_INCLUDE, see docs/engines.md")
    folder = tmp_path_factory.mktemp("cpp")
    library = os.environ.get("ONNXRUNTIME_LIBRARY")
    if library is None:
        wheel = Path(onnxruntime.__file__).parent / "capi"
        found = next(wheel.glob("libonnxruntime.so.*"), None)
        if found is None:
            pytest.skip("no library in the wheel of onnxruntime: set ONNXRUNTIME_LIBRARY")
        library = folder / "libonnxruntime.so.1"  # the name that programs look for
        library.symlink_to(found)
    settings = [f"-DONNXRUNTIME_INCLUDE={headers}", f"-DONNXRUNTIME_LIBRARY={library}"]
    for command in (
        ["-S", EXAMPLE, "-B", folder / "build", *settings],
        ["--build", folder / "build"],
    ):
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    return folder / "build" / "soundcrafter"


@pytest.mark.parametrize(("seed", "seconds"), [(0, None), (2**40 + 7, 1.3)])
def test_the_sound_is_that_of_the_runtime(program, exported, tmp_path, seed, seconds):
    runtime = OnnxSoundCrafter.from_pretrained(exported, threads=1)
    tokens, _ = Tokenizer.load(exported / "tokenizer.json").encode([PROMPT], 16)
    length = runtime.sampling.seconds if seconds is None else seconds
    (sound,) = runtime.generate(PROMPT, seconds=length, seed=seed, sampler="dpmpp", candidates=1)
    file = tmp_path / "dog.wav"
    given = [] if seconds is None else [str(seconds)]
    command = [program, exported, ",".join(map(str, tokens[0])), file, str(seed), *given]
    subprocess.run(command, check=True)
    wave, rate = soundfile.read(file)
    assert (rate, len(wave)) == (runtime.sample_rate, len(sound.wave))
    np.testing.assert_allclose(wave, sound.wave, atol=1e-3 * np.abs(sound.wave).max() + 2**-14)


def test_it_says_what_is_wrong(program, exported, tmp_path):
    for given, message in (
        ([tmp_path, "1,3", tmp_path / "x.wav"], "not an exported model"),
        ([exported, "1,3", tmp_path / "x.wav", "0", "60"], "seconds: allowed: up to 10"),
        ([exported], "usage"),
    ):
        done = subprocess.run([program, *given], capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr
