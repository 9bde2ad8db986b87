"""Draws are functions of (seed, index): crops, levels, mixes, faults and the prefetcher."""

import dataclasses
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from soundcrafter.audio import read_audio, write_audio
from soundcrafter.data.augment import gain, join_captions, mix
from soundcrafter.data.cache import BLOCK_SECONDS, WaveCache
from soundcrafter.data.dataset import DataConfig, Sounds
from soundcrafter.data.manifest import Manifest, Recording, read_manifest
from soundcrafter.data.prefetch import prefetch

RATE = 8000


def noise(path: Path, seconds: float, seed: int = 0, level: float = 0.2, rate: int = RATE) -> Path:
    rng = np.random.default_rng(seed)
    write_audio(path, (level * rng.uniform(-1, 1, round(seconds * rate))).astype(np.float32), rate)
    return path


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """Nine recordings: six of label a, two of b, one of c."""
    recordings = [
        Recording(
            file=noise(tmp_path / f"{i}.wav", 0.5 + i / 4, seed=i),
            caption=f"Sound {i}.",
            label="aaaaaabbc"[i],
            seconds=0.5 + i / 4,
        )
        for i in range(9)
    ]
    return Manifest(root=tmp_path, recordings=tuple(recordings))


def sounds(manifest, *, num_samples=RATE, seed=0, peak=0.5, **config) -> Sounds:
    return Sounds(
        manifest,
        DataConfig(**config),
        sample_rate=RATE,
        num_samples=num_samples,
        seed=seed,
        peak=peak,
    )


def same(a, b) -> bool:
    return np.array_equal(a.wave, b.wave) and (a.caption, a.label, a.files) == (
        b.caption,
        b.label,
        b.files,
    )


FULL = {"mix_probability": 0.5, "gain_db": 6.0}


@pytest.mark.parametrize("extra", [{}, {"variants": 3}, {"balance": "none"}, {"cache_gb": 0.0}])
def test_a_draw_is_a_function_of_seed_and_index(manifest, extra):
    forwards = sounds(manifest, **FULL, **extra)
    first = [forwards.draw(i) for i in range(40)]
    backwards = sounds(manifest, **FULL, **extra)
    second = [backwards.draw(i) for i in reversed(range(40))][::-1]
    assert all(map(same, first, second))
    assert not all(
        same(forwards.draw(i), sounds(manifest, seed=1, **FULL).draw(i)) for i in range(8)
    )
    with ThreadPoolExecutor(8) as threads:
        third = list(threads.map(sounds(manifest, **FULL, **extra).draw, range(40)))
    assert all(map(same, first, third))


def test_content_does_not_depend_on_the_cache(manifest):
    cached, bare = sounds(manifest, **FULL), sounds(manifest, cache_gb=0.0, **FULL)
    tiny = sounds(manifest, cache_gb=3e-5, **FULL)
    for i in range(30):
        assert same(cached.draw(i), bare.draw(i))
        assert same(cached.draw(i), tiny.draw(i))
    assert 0 < tiny._cache._size <= 30_000


def test_batch_stacks_draws(manifest):
    drawn = sounds(manifest, mix_probability=0.5)
    batch = drawn.batch([5, 2, 9])
    assert batch.wave.shape == (3, RATE)
    assert batch.wave.dtype == torch.float32
    assert batch.indices == (5, 2, 9)
    for row, index in enumerate(batch.indices):
        draw = drawn.draw(index)
        assert np.array_equal(batch.wave[row].numpy(), draw.wave)
        assert batch.captions[row] == draw.caption
        assert (batch.labels[row], batch.files[row]) == (draw.label, draw.files)


def test_balance_by_label(manifest):
    drawn = sounds(manifest, balance="label")
    labels = Counter(drawn.draw(i).label for i in range(900))
    assert all(240 < labels[name] < 360 for name in "abc"), labels
    files = Counter(f for i in range(900) for f in drawn.draw(i).files)
    assert 100 < files["6.wav"] < 200, "half of b's draws"


def test_rare_labels_get_less_than_a_full_share(tmp_path):
    """Full share 4: labels of 1, 4 and 8 recordings get 1, 4 and 4 of 9 lots."""
    counts = {"once": 1, "four": 4, "many": 8}
    rows = ["file,label,seconds"]
    for label, many in counts.items():
        rows += [f"{noise(tmp_path / f'{label}{n}.wav', 0.1).name},{label},.1" for n in range(many)]
    (tmp_path / "sounds.csv").write_text("\n".join(rows) + "\n")
    drawn = sounds(read_manifest(tmp_path), num_samples=1600, full_share=4)
    found = Counter(drawn.manifest.recordings[drawn.order.choose(i)[0]].label for i in range(3000))
    for label, lots in (("once", 1), ("four", 4), ("many", 4)):
        assert found[label] / 3000 == pytest.approx(lots / 9, abs=0.03)
    partners = Counter(
        drawn.manifest.recordings[next(drawn.order.partners(0, np.random.default_rng(i)))].label
        for i in range(400)
    )
    assert "once" not in partners
    assert partners["four"] / 400 == pytest.approx(0.5, abs=0.08)


def test_wordings_stand_for_captions_as_often_as_asked(manifest, tmp_path):
    label = manifest.recordings[0].label
    table = tmp_path / "wordings.csv"
    table.write_text(f"family,split,wording\n{label},train,say it so\n{label},train,or so\n")
    drawn = sounds(manifest, wordings=str(table), wording_probability=0.5)
    captions = [draw.caption for draw in map(drawn.draw, range(300)) if draw.label == label]
    share = sum(caption in ("say it so", "or so") for caption in captions) / len(captions)
    assert share == pytest.approx(0.5, abs=0.12)
    plain = sounds(manifest, wordings=str(table), wording_probability=0.0)
    assert not {"say it so", "or so"} & {plain.draw(i).caption for i in range(100)}


def test_without_balance_each_epoch_is_a_permutation(manifest):
    drawn = sounds(manifest, balance="none")
    epochs = [[drawn.draw(e * 9 + i).files[0] for i in range(9)] for e in range(3)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_long_recordings_are_cropped_at_random_starts(tmp_path):
    ramp = np.linspace(-0.9, 0.9, 2 * RATE).astype(np.float32)
    write_audio(tmp_path / "r.wav", ramp, RATE)
    one = Manifest(root=tmp_path, recordings=(Recording(file=tmp_path / "r.wav", seconds=2.0),))
    drawn = sounds(one, num_samples=RATE // 2, peak=None)
    starts = [round((float(drawn.draw(i).wave[0]) + 0.9) / 1.8 * 2 * RATE) for i in range(200)]
    assert min(starts) < 0.15 * RATE
    assert max(starts) > 1.35 * RATE
    assert len(set(starts)) > 150
    wave = drawn.draw(0).wave
    assert np.abs(wave - ramp[starts[0] : starts[0] + RATE // 2]).max() < 1e-3


@pytest.mark.parametrize("pad", ["zero", "repeat"])
def test_short_recordings_start_at_zero_and_are_padded(tmp_path, pad):
    noise(tmp_path / "s.wav", 0.25)
    one = Manifest(root=tmp_path, recordings=(Recording(file=tmp_path / "s.wav", seconds=0.25),))
    wave = sounds(one, pad=pad).draw(3).wave
    length = RATE // 4
    assert np.abs(wave[:length]).max() == pytest.approx(0.5)
    assert abs(float(wave[:length].mean())) < 1e-6, "DC goes before the padding comes"
    if pad == "zero":
        assert not wave[length:].any()
    else:
        assert np.array_equal(wave, np.tile(wave[:length], 4))


def test_level(tmp_path):
    rng = np.random.default_rng(0)
    wave = (0.1 + 0.05 * rng.uniform(-1, 1, RATE)).astype(np.float32)
    write_audio(tmp_path / "dc.wav", wave, RATE)
    one = Manifest(root=tmp_path, recordings=(Recording(file=tmp_path / "dc.wav", seconds=1.0),))
    plain = sounds(one).draw(0).wave
    assert np.abs(plain).max() == pytest.approx(0.5)
    assert abs(float(plain.mean())) < 1e-5
    assert np.abs(sounds(one, peak=None).draw(0).wave - wave).max() < 1e-4
    levels = [np.abs(sounds(one, gain_db=12.0).draw(i).wave).max() for i in range(50)]
    db = 20 * np.log10(np.array(levels) / 0.5)
    assert -12 <= db.min() < -8
    assert -4 < db.max() <= 1e-6


def test_silent_crops_are_drawn_again(tmp_path):
    wave = np.zeros(10 * RATE, np.float32)
    wave[: 4 * RATE] = 0.3 * np.random.default_rng(0).uniform(-1, 1, 4 * RATE)
    write_audio(tmp_path / "half.wav", wave, RATE)
    write_audio(tmp_path / "none.wav", np.zeros(4 * RATE, np.float32), RATE)

    def one(name, seconds):
        item = Recording(file=tmp_path / name, seconds=seconds)
        return sounds(Manifest(root=tmp_path, recordings=(item,)), num_samples=RATE // 2)

    silent = sum(not one("half.wav", 10.0).draw(i).wave.any() for i in range(100))
    assert silent < 20, "58 without another try, 7 with four more"
    assert not one("none.wav", 4.0).draw(0).wave.any()


def test_quiet_recordings_keep_their_resolution(tmp_path):
    import soundfile

    wave = (1e-3 * np.random.default_rng(0).uniform(-1, 1, RATE)).astype(np.float32)
    soundfile.write(tmp_path / "q.wav", wave, RATE, subtype="FLOAT")
    item = Recording(file=tmp_path / "q.wav", seconds=1.0)
    read = WaveCache(RATE, 10**6).crop(item, 0, RATE)
    assert np.abs(read - wave).max() < 1e-3 / 32767


def test_long_files_are_read_in_parts_that_fit_together(tmp_path):
    rate, seconds = 16000, 3 * BLOCK_SECONDS + 5.5
    time_axis = np.arange(round(seconds * rate)) / rate
    wave = (0.5 * np.sin(2 * np.pi * (200 + 20 * time_axis) * time_axis)).astype(np.float32)
    write_audio(tmp_path / "long.wav", wave, rate)
    item = Recording(file=tmp_path / "long.wav", seconds=seconds)
    whole = read_audio(item.file, RATE)
    cache = WaveCache(RATE, 10**9)
    assert cache.num_samples(item) == len(whole)
    seam = BLOCK_SECONDS * RATE
    for start, length in [
        (seam - 500, 1000),
        (0, 100),
        (len(whole) - 400, 400),
        (10, len(whole) - 10),
    ]:
        part = cache.crop(item, start, length)
        assert len(part) == length
        assert np.abs(part - whole[start : start + length]).max() < 1e-4
    bare = WaveCache(RATE, 0)
    assert np.array_equal(bare.crop(item, seam - 9, 99), cache.crop(item, seam - 9, 99))


def test_a_draw_longer_than_a_block_takes_recordings_of_every_length(tmp_path):
    lengths = [1.0, 10.0, float(BLOCK_SECONDS), 17.0, 2.0 * BLOCK_SECONDS, 40.0]
    recordings = tuple(
        Recording(file=noise(tmp_path / f"{seconds:g}.wav", seconds), seconds=seconds)
        for seconds in lengths
    )
    wanted = 20 * RATE
    drawn = sounds(
        Manifest(root=tmp_path, recordings=recordings),
        num_samples=wanted,
        balance="none",
        peak=None,
    )
    draws = {draw.files[0]: draw.wave for draw in map(drawn.draw, range(len(lengths)))}
    assert not drawn.skipped
    assert len(draws) == len(lengths)
    for item, seconds in zip(recordings, lengths, strict=True):
        wave, whole = draws[item.file.name], read_audio(item.file, RATE)
        assert len(wave) == wanted
        if len(whole) >= wanted:
            assert wave[-1000:].any()
        else:
            assert np.abs(wave[: len(whole)] - whole).max() < 1e-4, seconds
            assert not wave[len(whole) :].any()


def test_a_crop_past_the_end_is_refused(tmp_path):
    item = Recording(file=noise(tmp_path / "x.wav", 1.0), seconds=1.0)
    for start in (RATE, 20 * RATE):
        with pytest.raises(ValueError, match="shorter than"):
            WaveCache(RATE, 10**6).crop(item, start, 100)


def test_only_the_needed_part_of_a_long_file_is_read(tmp_path, monkeypatch):
    item = Recording(file=noise(tmp_path / "long.wav", 100.0), seconds=100.0)
    read: list[float] = []

    def spy(path, sample_rate, *, start=0.0, seconds=None):
        read.append(seconds)
        return read_audio(path, sample_rate, start=start, seconds=seconds)

    monkeypatch.setattr("soundcrafter.data.cache.read_audio", spy)
    one = Manifest(root=tmp_path, recordings=(item,))
    sounds(one, cache_gb=0.0).draw(0)
    assert sum(read) <= 2 * (BLOCK_SECONDS + 2)


def test_start_and_seconds_choose_a_stretch(tmp_path):
    path = noise(tmp_path / "x.wav", 3.0)
    item = Recording(file=path, start=1.0, seconds=0.5)
    wave = sounds(Manifest(root=tmp_path, recordings=(item,)), peak=None).draw(0).wave
    assert np.abs(wave[: RATE // 2] - read_audio(path, RATE)[RATE : RATE + RATE // 2]).max() < 1e-4
    assert not wave[RATE // 2 :].any()


@pytest.mark.parametrize("balance", ["label", "none"])
def test_mixes_join_two_labels(manifest, balance):
    drawn = sounds(manifest, mix_probability=1.0, balance=balance)
    labels = {manifest.name(r): r.label for r in manifest.recordings}
    captions = {manifest.name(r): r.caption for r in manifest.recordings}
    pairs = Counter()
    for i in range(300):
        draw = drawn.draw(i)
        one, two = draw.files
        assert labels[one] != labels[two]
        assert draw.label is None
        assert draw.caption == join_captions(captions[one], captions[two])
        assert np.abs(draw.wave).max() == pytest.approx(0.5)
        pairs[labels[one], labels[two]] += 1
    assert len(pairs) == 6
    if balance == "none":  # a partner is then any recording of another label: 6 of the 8 beside c
        assert pairs["c", "a"] > pairs["c", "b"]


def test_mix_probability(manifest):
    drawn = sounds(manifest, mix_probability=0.3)
    mixed = sum(len(drawn.draw(i).files) == 2 for i in range(400))
    assert 80 < mixed < 160
    single = Manifest(root=manifest.root, recordings=manifest.recordings[:6])
    alone = sounds(single, mix_probability=1.0)
    assert all(len(alone.draw(i).files) == 1 for i in range(10)), "one label has no partner"


def test_unlabelled_recordings_mix_where_captions_differ(manifest):
    bare = [dataclasses.replace(r, label=None) for r in manifest.recordings]
    drawn = sounds(Manifest(root=manifest.root, recordings=tuple(bare)), mix_probability=1.0)
    draws = [drawn.draw(i) for i in range(30)]
    assert all(len(set(draw.files)) == 2 for draw in draws)


def test_variants_are_a_finite_set(manifest):
    drawn = sounds(manifest, variants=2, num_samples=RATE // 4, **FULL)
    every = [drawn.draw_variant(r, v) for r in range(9) for v in range(2)]
    seen = Counter()
    for i in range(400):
        draw = drawn.draw(i)
        (place,) = [n for n, other in enumerate(every) if same(draw, other)]
        seen[place] += 1
    assert len(seen) == 18
    with pytest.raises(ValueError, match="variant: got 2; there are 2"):
        drawn.draw_variant(0, 2)


def test_an_undecodable_recording_is_replaced_by_the_next(manifest):
    before = sounds(manifest, balance="none")
    firsts = [before.draw(i).files[0] for i in range(9)]
    (manifest.root / "3.wav").write_bytes(b"broken")
    after = sounds(manifest, balance="none")
    draws = [after.draw(i).files[0] for i in range(9)]
    assert draws == ["4.wav" if name == "3.wav" else name for name in firsts]
    assert list(after.skipped) == ["3.wav"]
    left_out = dataclasses.replace(manifest, skipped=(("gone.wav", "no such file"),))
    both = sounds(left_out, balance="none")
    assert both.all_skipped == {"gone.wav": "no such file"}
    both.batch(range(9))
    assert both.all_skipped == {"gone.wav": "no such file", **after.skipped}
    mixed = sounds(manifest, mix_probability=1.0)
    assert all("3.wav" not in mixed.draw(i).files for i in range(60))
    for recording in manifest.recordings:
        recording.file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of the 9 recordings can be decoded"):
        sounds(manifest).draw(0)


def test_excluded_captions_are_never_drawn(manifest, tmp_path):
    (tmp_path / "bench.csv").write_text("prompt\nsound 3\nsound 7\n")
    drawn = sounds(manifest, balance="none", exclude_captions=(str(tmp_path / "bench.csv"),))
    assert len(drawn) == 7
    assert {drawn.draw(i).caption for i in range(7)}.isdisjoint({"Sound 3.", "Sound 7."})
    with pytest.raises(ValueError, match=r"gone\.csv"):
        sounds(manifest, exclude_captions=("gone.csv",))


@pytest.mark.parametrize(
    "wrong",
    [
        {"balance": "labels"},
        {"pad": "wrap"},
        {"variants": -1},
        {"mix_probability": 1.5},
        {"mix_snr_db": (5.0, -5.0)},
        {"gain_db": -1.0},
        {"cache_gb": -1.0},
    ],
)
def test_config_refuses(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got"):
        DataConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"peak": 0.0}, {"num_samples": 0}])
def test_sounds_refuse(manifest, wrong):
    with pytest.raises(ValueError, match="got"):
        sounds(manifest, **wrong)


def test_bundled_clips(clips):
    drawn = sounds(read_manifest(clips), mix_probability=0.5)
    batch = drawn.batch(range(12))
    assert not drawn.skipped
    assert torch.isfinite(batch.wave).all()
    assert all(batch.captions)
    assert torch.allclose(batch.wave.abs().amax(dim=1), torch.tensor(0.5))


def test_gain_and_mix():
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, 4000).astype(np.float32) for _ in range(2))
    assert np.abs(gain(a, -20.0) - 0.1 * a).max() < 1e-6
    for snr in (-5.0, 0.0, 12.0):
        rest = mix(a, b, snr) - a
        assert 10 * np.log10((a @ a) / (rest @ rest)) == pytest.approx(snr, abs=1e-3)
    padded = np.concatenate([b[:1000], np.zeros(3000, np.float32)])
    rest = mix(a, padded, 0.0) - a
    power = float(rest @ rest) / 1000
    assert power == pytest.approx(float(a @ a) / 4000, rel=1e-3), "padding does not count"
    with pytest.raises(ValueError, match="silent"):
        mix(a, 0 * b, 0.0)
    with pytest.raises(ValueError, match="lengths"):
        mix(a, b[:10], 0.0)


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("A dog barks", "Rain falls", "A dog barks and rain falls"),
        ("A dog barks. ", "Rain falls", "A dog barks and rain falls"),
        ("Rain", "TV noise hisses", "Rain and TV noise hisses"),
        ("Rain", "A TV hisses", "Rain and a TV hisses"),
    ],
)
def test_join_captions(first, second, joined):
    assert join_captions(first, second) == joined


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_prefetch_keeps_the_order(workers):
    def make(step: int) -> int:
        time.sleep(0.002 * (step % 3))
        return step * step

    assert list(prefetch(make, range(20), workers, 5)) == [step * step for step in range(20)]
    assert list(prefetch(make, [], workers, 5)) == []
    assert list(islice(prefetch(make, count(), workers, 3), 4)) == [0, 1, 4, 9]


@pytest.mark.parametrize("workers", [0, 3])
def test_prefetch_raises_where_the_result_was_due(workers):
    def make(step: int) -> int:
        if step == 3:
            raise ValueError("step 3")
        return step

    results = prefetch(make, range(6), workers, 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="step 3"):
        next(results)


def test_prefetch_works_ahead_no_further_than_depth_and_closes():
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step

    results = prefetch(make, count(), 2, 4)
    assert not made
    assert next(results) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sorted(made) == [0, 1, 2, 3, 4]
    results.close()
    time.sleep(0.01)
    assert len(made) == 5
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
    with pytest.raises(ValueError, match="depth 0"):
        prefetch(make, [], 1, 0)


@pytest.mark.parametrize("pad", ["zero", "repeat"])
def test_cached_draws_are_fast(data_dir, pad):
    manifest = read_manifest(data_dir, split="dev")
    config = DataConfig(pad=pad)
    drawn = Sounds(manifest, config, sample_rate=16000, num_samples=80000, seed=0)
    for i in range(30):
        drawn.draw(i)
    times = []
    for i in range(30):
        begin = time.perf_counter()
        drawn.draw(i)
        times.append(time.perf_counter() - begin)
    assert np.median(times) < 5e-3


def test_speed_changes_length_and_pitch(tmp_path):
    time = np.arange(RATE) / RATE
    file = tmp_path / "tone.wav"
    write_audio(file, (0.3 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32), RATE)
    recording = Recording(file=file, caption="A tone", label="a", seconds=1.0)
    tone = Manifest(root=tmp_path, recordings=(recording,))
    source = sounds(tone, num_samples=2 * RATE, speed=0.1)
    lengths, pitches = [], []
    for index in range(40):
        wave = source.draw(index).wave
        assert len(wave) == 2 * RATE
        end = int(np.flatnonzero(np.abs(wave) > 0.01)[-1])
        lengths.append(end / RATE)
        spectrum = np.abs(np.fft.rfft(wave[:4000]))
        pitches.append(float(np.argmax(spectrum)) * RATE / 4000)
    assert 0.9 < min(lengths) < 0.93
    assert 1.07 < max(lengths) < 1.12
    np.testing.assert_allclose(np.array(lengths) * pitches, 1000, rtol=0.01)
    assert same(source.draw(3), sounds(tone, num_samples=2 * RATE, speed=0.1).draw(3))
    with pytest.raises(ValueError, match=r"speed: got 0\.9; must be from 0 to 0\.5"):
        DataConfig(speed=0.9)
