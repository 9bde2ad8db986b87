"""The OpenAPI document says what the server does: examples drawn from it, and every answer."""

import re
from pathlib import Path
from typing import Any

import pytest
import soundfile
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, settings

from soundcrafter.serve.worker import Worker


def never_500(_: Any, response: Any, __: Any) -> None:
    """An answer may say that the sound took too long, but not that the server is broken."""
    assert response.status_code != 500


CHECKS = (  # schemathesis's
    *("status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    "negative_data_rejection",
)
EXAMPLES = 3  # of each operation


def test_answers_are_those_of_the_document(make_client, crafter):
    client = make_client(wait_seconds=0.05, max_queue=2)
    request = {"prompt": "rain", "seconds": 0.3, "steps": 1}
    job = client.post("/v1/sounds", json=request).json()["id"]
    Worker(client.store, crafter, "test", client.settings).run_once()
    schemathesis = pytest.importorskip("schemathesis", reason="needs pip install .[dev]")
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    modes = schemathesis.GenerationMode
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 14
    for operation in operations:
        check(operation, client, modes.POSITIVE, job)
        if "/v1/" in operation.path and (operation.body or operation.query):
            check(operation, client, modes.NEGATIVE, job)


def check(operation: Any, client: TestClient, mode: Any, job: str) -> None:
    """Try examples of an operation that fit its schema, or that do not."""
    from hypothesis import given
    from schemathesis.specs.openapi import checks

    wanted = [never_500, *(getattr(checks, name) for name in CHECKS)]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if case.method == "GET" and "job" in case.path_parameters and mode.is_positive:
            case.path_parameters["job"] = job  # one that exists; its own do not
        case.call_and_validate(session=client, checks=wanted)

    run()


def test_the_page_names_every_path_and_its_python_runs(client, monkeypatch, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    for path in client.get("/openapi.json").json()["paths"]:
        assert path.replace("{job}", "ID") in page.replace("`, `/", " GET /")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    def post(url: str, **options: Any) -> Any:
        del options["timeout"]
        return client.post(url.removeprefix("http://127.0.0.1:8321"), **options)

    monkeypatch.setattr("httpx.post", post)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "serving.md", "exec"), {})
    assert soundfile.info("dog.wav").duration == 3


def test_every_operation_is_described_and_every_error_has_one_shape(client):
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            for status, answer in operation["responses"].items():
                if int(status) < 400:
                    continue
                shape = answer["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
                assert shape in ("Error", "DetailError", "WrappedError"), (path, status)
    assert document["components"]["schemas"]["SoundRequest"]["examples"]
