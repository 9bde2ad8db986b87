"""Other servers' API shapes: bytes for their clients, and errors that they understand."""

import io

import pytest
import soundfile

from soundcrafter.serve.foreign import OUTPUT_FORMATS
from soundcrafter.serve.formats import MEDIA_TYPES

ELEVENLABS, VLLM = "/v1/sound-generation", "/v1/audio/generate"
TEXT = {"text": "rain", "duration_seconds": 0.5}
INPUT = {"input": "rain", "audio_length": 0.5, "num_inference_steps": 1, "seed": 3}


def test_elevenlabs_default_is_mp3_at_128_kbps(client):
    answer = client.post(ELEVENLABS, json=TEXT | {"duration_seconds": 4, "model_id": "any"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "audio/mpeg"
    with soundfile.SoundFile(io.BytesIO(answer.content)) as file:
        assert (file.format, file.samplerate) == ("MP3", 44100)
    assert len(answer.content) * 8 / 4000 == pytest.approx(128, rel=0.05)
    assert client.store.get(answer.headers["request-id"]).origin == "elevenlabs"


def test_every_output_format_is_what_it_says(client):
    for name in OUTPUT_FORMATS:
        answer = client.post(f"{ELEVENLABS}?output_format={name}", json=TEXT | {"loop": True})
        assert answer.status_code == 200, answer.text
        codec, rate, *_ = name.split("_")
        assert answer.headers["content-type"] == MEDIA_TYPES[codec]
        size = {"pcm": 2, "ulaw": 1, "alaw": 1}.get(codec)
        if size is not None:  # samples and nothing else
            assert len(answer.content) == pytest.approx(size * int(rate) * 0.5, rel=0.05)
            continue
        with soundfile.SoundFile(io.BytesIO(answer.content)) as file:
            assert file.samplerate == int(rate)


def test_influence_is_guidance_and_the_default_is_the_models(client):
    for given, guidance in ((None, None), (0.3, None), (0, 1.0), (1, 6.0)):
        body = TEXT | {"prompt_influence": given}
        answer = client.post(f"{ELEVENLABS}?output_format=pcm_16000", json=body)
        request = client.store.get(answer.headers["request-id"]).request
        assert request.get("guidance") == guidance


@pytest.mark.parametrize(
    ("body", "query", "message"),
    [
        ({}, "", "text"),
        ({"text": ""}, "", "text"),
        ({"text": "rain", "duration_seconds": 31}, "", "duration_seconds"),
        ({"text": "rain", "prompt_influence": 2}, "", "prompt_influence"),
        ({"text": "rain"}, "?output_format=aac_44100", "allowed: mp3_44100_128, "),
        ({"text": "a\x00"}, "", "U+0000"),
    ],
)
def test_elevenlabs_errors_have_its_shape(idle_client, body, query, message):
    answer = idle_client.post(ELEVENLABS + query, json=body)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert detail["status"] == "invalid_request"
    assert message in detail["message"]


def test_elevenlabs_key_is_a_token(make_client, tmp_path):
    file = tmp_path / "tokens"
    file.write_text("key\n")
    client = make_client(token_file=file, max_queue=1, wait_seconds=0.1)
    answer = client.post(ELEVENLABS, json=TEXT, headers={"xi-api-key": "wrong"})
    assert answer.status_code == 401
    assert answer.json()["detail"]["status"] == "invalid_api_key"
    answer = client.post(ELEVENLABS, json=TEXT, headers={"xi-api-key": "key"})
    assert answer.status_code == 504  # there is no worker
    assert client.store.counts()["cancelled"] == 1


def test_vllm_omni_gets_the_sound_in_its_format(client, crafter):
    answer = client.post(VLLM, json=INPUT | {"negative_prompt": "voices", "guidance_scale": 2})
    assert answer.status_code == 200, answer.text
    wave, rate = soundfile.read(io.BytesIO(answer.content), dtype="float32")
    (sound,) = crafter.generate("rain", seconds=0.5, steps=1, seed=3, negative="voices", guidance=2)
    assert rate == crafter.sample_rate
    assert abs(wave - sound.wave).max() <= 2**-15
    for name in ("flac", "mp3", "opus", "pcm"):
        answer = client.post(VLLM, json=INPUT | {"response_format": name, "extra": 1})
        assert answer.headers["content-type"] == MEDIA_TYPES[name]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input"),
        (INPUT | {"response_format": "aac"}, "'wav', 'flac', 'mp3', 'opus' or 'pcm'"),
        (INPUT | {"audio_length": 100}, "up to 60"),
        (INPUT | {"audio_start": 3}, "audio_start"),
    ],
)
def test_vllm_omni_errors_have_its_shape(idle_client, body, message):
    answer = idle_client.post(VLLM, json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert message in error["message"]
    assert (error["type"], error["code"], error["param"]) == ("BadRequestError", 422, None)
