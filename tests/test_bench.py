"""The benchmark: what it counts and times, against what is counted by hand; its files."""

import csv
import dataclasses
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from soundcrafter import cli
from soundcrafter.bench import diffusers_model, machine, meters
from soundcrafter.bench.benchmark import bench, ratios
from soundcrafter.bench.diffusers_model import AudioLDMConfigs, configs_like
from soundcrafter.bench.machine import machine_peak
from soundcrafter.bench.meters import count_flops, interleaved, memory_rise
from soundcrafter.bench.own_model import OwnModel
from soundcrafter.bench.runners import LocalRunner, ProcessRunner, in_own_process, own_process
from soundcrafter.bench.scaling import plot_scaling
from soundcrafter.bench.workload import COUNTED, PARTS, Workload
from soundcrafter.describe import describe
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.store import open_folder

CPU = torch.device("cpu")
SHORT = Workload(seconds=0.5, steps=2, repeats=2, device="cpu", precision="fp32")
SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "random_model.py"
MB = 2**20


@pytest.fixture(autouse=True)
def quick_peak(monkeypatch):
    monkeypatch.setattr(machine, "_PEAK_SECONDS", 0.01)


@pytest.fixture(scope="module")
def random_model():
    spec = importlib.util.spec_from_file_location("random_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def audioldm(random_model, tmp_path_factory) -> Path:
    """AudioLDM-S at width 8."""
    folder = tmp_path_factory.mktemp("random") / "audioldm"
    random_model.write("audioldm-s", folder, width=8)
    return folder


@pytest.fixture
def refused(monkeypatch, capsys):
    """The one line that the command line says to a command that it refuses."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["soundcrafter", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    return call


def positive(figures: object) -> bool:
    if isinstance(figures, dict):
        return all(positive(value) for value in figures.values())
    return all(map(positive, figures)) if isinstance(figures, list) else figures > 0


@pytest.mark.long
@pytest.mark.usefixtures("fork_workers")
def test_a_tiny_model_has_every_figure(tiny_model, tmp_path):
    out = tmp_path / "new" / "out"
    scaling = {"seconds": (0.3,), "batch": (1, 2), "steps": (1,)}
    report = bench(tiny_model, SHORT, scaling=scaling, out=out)
    ours = report["ours"]
    assert set(ours["seconds"]) == set(PARTS)
    assert set(ours["gflop"]) == set(ours["gflops"]) == set(ours["share_of_peak"]) == set(COUNTED)
    assert positive({**ours, "peak_memory_mb": 1.0}), ours
    assert ours["peak_memory_mb"] > 0.1
    assert positive(report["peak_gflops"])
    assert all(len(runs) == SHORT.repeats for runs in ours["runs"].values())
    assert ours["real_time_factor"] == ours["seconds"]["end_to_end"] / SHORT.seconds
    assert report["precision"] == "fp32"
    assert report["machine"]["device"] == "cpu"
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert report["peers"] == {}
    parts = sum(ours["seconds"][part] for part in PARTS if part not in ("unet_step", "end_to_end"))
    # of a busy machine with tiny work: about the whole
    assert 0.4 < parts / ours["seconds"]["end_to_end"] < 2.5

    assert json.loads((out / "bench.json").read_text()) == report
    rows = list(csv.DictReader((out / "scaling.csv").open()))
    assert [(row["axis"], float(row["value"])) for row in rows] == [
        *(("seconds", 0.3), ("batch", 1.0), ("batch", 2.0), ("steps", 1.0)),
    ]
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert [row["peak_memory_mb"] != "" for row in rows] == [True, False, False, False]
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert {file.name for file in out.iterdir()} == {"bench.json", "scaling.csv", "scaling.png"}


@pytest.mark.slow
def test_peer_takes_turns_at_the_models_size(audioldm, monkeypatch):
    monkeypatch.setattr(diffusers_model, "cpu_has_bf16", lambda: False)
    report = bench(audioldm, dataclasses.replace(SHORT, repeats=1), peer="diffusers")
    ours, peer = report["ours"], report["peers"]["diffusers fp32"]
    assert "clap_score" not in ours["seconds"]
    assert set(peer["seconds"]) == set(PARTS) - {"clap_score"}
    assert positive(peer["seconds"])
    assert positive(peer["gflop"])
    assert peer["peak_memory_mb"] > 0
    assert set(peer["ratios"]) == {*peer["seconds"], "peak_memory"}
    # the same network of the same size: what differs is how the upsampling is computed
    assert 0.8 < peer["gflop"]["unet_step"] / ours["gflop"]["unet_step"] < 1.5


def test_peer_has_the_weights_of_an_import(audioldm):
    crafter = SoundCrafter.from_pretrained(audioldm, "cpu", precision="fp32")
    pipeline = diffusers_model.build_pipeline(configs_like(crafter))

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert size(pipeline.unet) == size(crafter.unet)
    assert size(pipeline.vae) == size(crafter.vae)
    assert size(pipeline.vocoder) == size(crafter.vocoder)


def test_peer_of_another_layout_is_audioldm_s(tiny_model):
    crafter = SoundCrafter.from_pretrained(tiny_model, "cpu", precision="fp32")
    configs = configs_like(crafter)
    assert configs == AudioLDMConfigs()
    assert configs.unet.heads == (4, 8, 12, 20)


@pytest.mark.long
def test_random_models_make_sound(random_model, audioldm, tmp_path):
    random_model.write("paper", tmp_path, width=8)
    for folder, film in ((audioldm, False), (tmp_path, True)):
        crafter = SoundCrafter.from_pretrained(folder, "cpu", precision="fp32")
        assert (crafter.unet.config.conditioning == "film") == film
        assert crafter.clap.has_audio == film
        assert all(parameter.any() for parameter in crafter.unet.parameters())
        (sound,) = crafter.generate("rain", seconds=0.3, steps=1)
        assert sound.wave.any()
    with pytest.raises(ValueError, match="multiples of 8"):
        random_model.write("paper", tmp_path, width=12)


def test_ratios_by_hand():
    ours = {"seconds": {"text": 0.5, "vocoder": 2.0, "clap_score": 1.0}, "peak_memory_mb": 100.0}
    peer = {"seconds": {"text": 2.0, "vocoder": 1.0}, "peak_memory_mb": 250.0}
    assert ratios(peer, ours) == {"text": 4.0, "vocoder": 0.5, "peak_memory": 2.5}


def test_operations_of_a_convolution_and_of_attention_by_hand():
    conv = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 8, 5)
    # a multiplication and an addition for each weight at each place
    assert count_flops(lambda: conv(x)) == 2 * (3 * 4 * 9) * (2 * 8 * 5)
    q = torch.randn(1, 2, 64, 16)
    with torch.inference_mode():
        flops = count_flops(lambda: nn.functional.scaled_dot_product_attention(q, q, q))
    assert flops == 2 * (2 * 2 * 64 * 64 * 16)  # q k', then its product with v


def test_jobs_take_turns():
    order: list[str] = []
    found = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": [None, None], "b": [None, None]}


def test_machine_peak_is_in_gflops():
    peak = machine_peak(CPU, torch.float32)
    assert set(peak) == {"matmul", "conv"}
    assert all(0.05 < value < 1e5 for value in peak.values())


def rise_of(count: int) -> tuple[int, float]:
    """This process's id, and what is measured of so many megabytes."""
    return os.getpid(), memory_rise([], lambda: torch.ones(count * MB // 4).sum(), CPU)


def test_memory_is_measured_in_another_process():
    other, rise = in_own_process(rise_of, 64)
    assert other != os.getpid()
    assert 0.9 < rise * 1e6 / (64 * MB) < 1.5


def test_memory_by_sampling(monkeypatch):
    monkeypatch.setattr(meters, "_reset_kernel_peak", lambda: False)

    def work() -> None:
        held = torch.ones(64 * MB // 4)
        time.sleep(0.05)
        assert held.sum() > 0

    assert 0.5 < memory_rise([], work, CPU) * 1e6 / (64 * MB) < 1.5


@pytest.mark.usefixtures("fork_workers")
def test_a_subject_is_measured_in_another_process_as_in_this(tiny_model):
    here = LocalRunner(OwnModel(tiny_model, SHORT), SHORT)
    with own_process().open() as pool:
        other = ProcessRunner(pool, SHORT, OwnModel, tiny_model, SHORT)
        assert other.parts() == here.parts()
        for part in COUNTED:
            assert other.flops(part) == here.flops(part)
            assert other.seconds(part) > 0
        for runner in (here, other):
            whole, sampled = runner.end_to_end()
            assert whole > sampled > 0


@pytest.mark.usefixtures("fork_workers")
def test_a_subject_that_cannot_be_made_elsewhere_says_why():
    with own_process().open() as pool, pytest.raises(ValueError, match="no-such-model"):
        ProcessRunner(pool, SHORT, OwnModel, "no-such-model", SHORT)


@pytest.mark.usefixtures("fork_workers")
def test_a_killed_measurement_is_said():
    with pytest.raises(ValueError, match="was killed"):
        in_own_process(os._exit, 1)


def test_picture_of_a_single_axis(tmp_path):
    rows = [
        {"axis": "steps", "value": n, "seconds": 0.1 * n, "peak_memory_mb": None} for n in (1, 2)
    ]
    plot_scaling(rows, tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 1000


@pytest.mark.usefixtures("fork_workers")
def test_command_prints_a_table_and_json(tiny_model, monkeypatch, capsys):
    def printed(*flags: str) -> str:
        short = ("--seconds", "0.3", "--steps", "1", "--repeats", "1", "--device", "cpu")
        monkeypatch.setattr(sys, "argv", ["soundcrafter", "bench", str(tiny_model), *short, *flags])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        return capsys.readouterr().out

    report = json.loads(printed("--json", "--cold"))
    assert report["cold"] > report["as_shipped"] > 0
    monkeypatch.setattr("soundcrafter.bench.benchmark.bench", lambda *_, **__: report)
    table = printed("--cold")
    for words in ("vocoder", "seed 0", "the same, fresh process"):
        assert words in table


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--peer", "audiogen"), "peer: got 'audiogen'; allowed: diffusers"),
        (("--repeats", "0"), "repeats: got 0; at least 1"),
        (("--seconds", "0"), "seconds: got 0; allowed: 0.2 to 600"),
        (("--steps", "0"), "steps: got 0; allowed: 1 to 10000"),
        (("--precision", "int8"), "precision: got 'int8'"),
        (("--device", "tpu"), "device: 'tpu' is not available"),
        (("--scaling",), "needs --out DIR"),
    ],
)
def test_what_is_refused(refused, options, words):
    assert words in refused(*options)


def test_a_peer_that_is_not_installed(refused, monkeypatch):
    monkeypatch.setattr(diffusers_model, "find_spec", lambda _: None)
    assert "peer: diffusers is not installed; pip install diffusers" in refused(
        "--peer", "diffusers"
    )


def test_operations_are_counted_from_settings_alone(tiny_model, run):
    facts = describe(str(tiny_model), flops=True)
    crafter, folder = SoundCrafter.from_pretrained(tiny_model, "cpu"), open_folder(tiny_model)
    latent, unet = crafter.noise(0, folder.sampling.seconds), folder.load("unet")
    step, cond = torch.zeros(1, dtype=torch.long), torch.zeros(1, unet.config.embed_dim)
    with torch.no_grad():
        counted = count_flops(lambda: unet(latent, step, cond)) / 1e9
        decoded = count_flops(lambda: folder.load("vae").decode(latent)) / 1e9
    assert facts["gflop"]["unet"] == pytest.approx(counted)
    assert facts["gflop"]["vae_decode"] == pytest.approx(decoded)
    assert set(facts["gflop"]) >= {"clap_text", "vae_encode", "vocoder"}
    assert "vae_decode" in run("info", tiny_model, "--flops").out
