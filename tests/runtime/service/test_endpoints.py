"""The other endpoints: rows, classes, metrics, health, and what is refused."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run
from tests.support.served import Served, serving
from tokmarg import Guard
from tokmarg.errors import DeviceError
from tokmarg.service.rows import rows_of

JSONL = {"Content-Type": "application/x-ndjson"}
TEXTS = ["hello", "gun", "idiot", "hello gun. idiot", "noise"]


@pytest.fixture(scope="module")
def guard(table_bundle: Path) -> Guard:
    return Guard.load(table_bundle, device="cpu", threads=2)


# Rows


def test_a_row_is_that_of_the_command_line(served: Served, tokmarg: Run) -> None:
    for text in TEXTS:
        row = json.loads(tokmarg("score", text, "--format", "jsonl").stdout)
        assert served.post("/v1/score", {"text": text, "id": 1}) == (200, row)


def test_a_conversation_with_options(served: Served, guard: Guard) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "gun"}]
    body = {"messages": messages, "options": {"tolerance": 1e-9, "thresholds": {"unsafe": 1, "labels": {"A": 0.1}}}}
    status, row = served.post("/v1/score", body)
    expected = guard.score(messages, tolerance=1e-9)
    assert (status, row["id"], row["flagged"]) == (200, None, True)
    assert row["labels"] == {label: m and m.probability for label, m in expected.labels.items()}
    assert served.post("/v1/score", {"text": "gun", "role": "assistant"})[1]["labels"]["C"] is not None


def test_other_methods(served: Served, guard: Guard) -> None:
    row = served.post("/v1/score", {"text": "gun", "options": {"method": "greedy"}})[1]
    assert {**row, "id": None} == guard.score("gun", method="greedy").to_dict()


def test_many_rows_as_jsonl(served: Served, guard: Guard) -> None:
    lines = [json.dumps({"text": text, "id": f"row {n}"}) for n, text in enumerate(TEXTS * 20)]
    body = "\n".join([*lines, "no json", '{"text": ""}', ""]).encode()
    status, answer, headers = served.ask("POST", "/v1/score?max_nodes=99", body, JSONL)
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    rows = [json.loads(line) for line in answer.splitlines()]
    assert [row["id"] for row in rows] == [*(f"row {n}" for n in range(100)), 101, 102]
    assert [row.get("flagged") for row in rows] == [guard.score(text).flagged for text in TEXTS] * 20 + [None, None]
    assert [row["error"]["type"] for row in rows[100:]] == ["invalid_record", "empty_text"]
    assert served.ask("POST", "/v1/score", b"", JSONL)[:2] == (200, "")


def test_a_stream_that_ends_before_its_time_says_why(guard: Guard) -> None:
    result = guard.score("gun")

    async def outcomes() -> AsyncGenerator[Any, None]:
        yield result
        raise DeviceError("out of memory, as if")

    async def lines() -> list[str]:
        return [line async for line in rows_of(result, outcomes())]

    *rows, last = map(json.loads, asyncio.run(lines()))
    assert rows == [result.to_dict()] * 2
    assert last["error"]["message"] == "out of memory, as if"
    assert last["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": "gun", "options": {"nodes": 3}}, "'nodes' is no option"),
        ({"text": "gun", "options": {"tolerance": 7}}, "tolerance must lie in (0, 1], not be 7"),
        ({"text": "gun", "options": {"max_tokens": 99999}}, "max_tokens may be 2,048 here at most"),
        ({"text": "gun", "options": {"max_tokens": None}}, "max_tokens may be 2,048 here at most"),
        ({"text": "gun", "options": {"thresholds": {"unsafe": 2}}}, "thresholds.unsafe"),
        ({"text": "gun", "options": {"thresholds": {"labels": {"Q": 0.5}}}}, "'Q'"),
        ({"text": "gun", "options": 3}, "options must be an object"),
        ({"text": "gun", "model": 3}, "model must be a string"),
        (b"[1]", "the body must be a JSON object"),
        (b"{", "the body is no JSON"),
        (b"\xff", "the body is not UTF-8 at byte 1"),
        (b'{"text": "a", "text": "b"}', "field 'text' is there twice"),
        (b"[" * 20000, "nested too deeply"),
    ],
)
def test_what_is_refused_says_why(served: Served, body: Any, message: str) -> None:
    status, answer = served.post("/v1/score", body)
    assert status == 400
    assert message in answer["error"]["message"]


def test_a_row_that_cannot_be_scored(served: Served) -> None:
    for body, kind in ({"text": "", "id": 5}, "empty_text"), ({"id": 5}, "invalid_record"):
        status, row = served.post("/v1/score", body)
        assert (status, row["id"], row["error"]["type"]) == (400, 5, kind)


# Classes


def test_classify_as_vllm_has_it(served: Served, guard: Guard) -> None:
    status, answer = served.post("/classify", {"model": "words", "input": ["hello", "gun"]})
    assert (status, answer["object"], answer["model"]) == (200, "list", "words")
    assert [item["label"] for item in answer["data"]] == ["safe", "unsafe"]
    assert [item["index"] for item in answer["data"]] == [0, 1]
    for item, text in zip(answer["data"], ("hello", "gun"), strict=True):
        assert item["num_classes"] == len(item["probs"]) == 2
        assert item["probs"][1] == pytest.approx(guard.score(text).unsafe.probability, abs=1e-5)
        assert sum(item["probs"]) == pytest.approx(1)
    tokens = sum(len(guard.prompt(text).token_ids) for text in ("hello", "gun"))
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == tokens
    assert served.post("/classify", {"input": "gun"})[1]["data"][0]["label"] == "unsafe"
    assert served.post("/classify", {"input": [3]})[0] == 400


def test_rows_say_what_they_took(served: Served) -> None:
    _, row = served.post("/v1/score", {"text": "gun", "options": {"work": True}})
    assert row["work"].keys() == {"passes", "tokens", "nodes"}
    _, text, _ = served.ask("POST", "/v1/score?work=true", b'{"text": "gun"}\n', JSONL)
    assert json.loads(text)["work"] == row["work"]


# Health, metrics, paths


def test_health_and_readiness(served: Served) -> None:
    assert served.ask("GET", "/healthz")[:2] == (200, {"status": "ok"})
    assert served.ask("GET", "/readyz")[:2] == (200, {"status": "ready"})


def test_metrics(table_bundle: Path) -> None:
    with serving("--bundle", table_bundle, "--threads", "1") as server:
        server.post("/v1/moderations", {"input": ["gun", "hello", "gun"]})
        server.post("/v1/score", {"text": ""})
        _, text, headers = server.ask("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain; version=")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['tokmarg_requests_total{path="/v1/moderations",status="200"}'] == "1.0"
    assert values['tokmarg_requests_total{path="/v1/score",status="400"}'] == "1.0"
    assert values['tokmarg_rows_total{model="words",outcome="scored"}'] == "3.0"
    assert values['tokmarg_rows_total{model="words",outcome="empty_text"}'] == "1.0"
    assert values['tokmarg_flagged_total{label="",model="words"}'] == "2.0"
    assert values['tokmarg_flagged_total{label="A",model="words"}'] == "2.0"
    assert values['tokmarg_coverage_count{model="words"}'] == "3.0"
    assert values['tokmarg_waiting{model="words"}'] == "0.0"
    assert float(values['tokmarg_passes_total{model="words"}']) >= 1
    assert float(values['tokmarg_tokens_total{model="words"}']) > 10


def test_other_paths_and_methods(served: Served) -> None:
    status, answer, _ = served.ask("GET", "/v1/nowhere")
    assert (status, answer["error"]["message"]) == (404, "there is no such path")
    status, _, headers = served.ask("GET", "/v1/moderations")
    assert (status, headers["allow"]) == (405, "POST")


# Limits


def test_a_body_beyond_the_limit(served: Served) -> None:
    status, answer, headers = served.ask("POST", "/v1/moderations", {"input": "x" * 30_000})
    assert (status, answer["error"]["code"], headers["connection"]) == (413, "body_too_large", "close")


@pytest.mark.parametrize("pause", [0.0, 0.002])
def test_a_client_that_is_still_sending_gets_its_answer(served: Served, pause: float) -> None:
    """A body of 4 MB that was refused after the first 20 kB: a connection that were closed at once would be reset, and
    the client would fail to send, or would not read why."""

    def body() -> Iterator[bytes]:
        yield b'{"input": "'
        for _ in range(64):
            time.sleep(pause)
            yield b"x" * 65_536
        yield b'"}'

    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        with closing(connection):
            connection.request("POST", "/v1/moderations", body(), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
            response = connection.getresponse()
            assert (response.status, response.headers["connection"]) == (413, "close")
            assert json.loads(response.read())["error"]["code"] == "body_too_large"


def test_a_body_that_does_not_come(table_bundle: Path) -> None:
    with serving("--bundle", table_bundle, "--timeout", "0.5", "--threads", "1") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(b"POST /v1/moderations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "timeout"' in answer


def test_a_full_line(table_bundle: Path) -> None:
    """Beyond the line 429, with when to ask again; everybody who was let in is answered."""
    with serving("--bundle", table_bundle, "--max-waiting", "2", "--threads", "1") as server:

        def ask(_: int) -> tuple[int, dict[str, str]]:
            body = {"text": "hello " * 30, "options": {"tolerance": 1e-9}}
            status, _answer, headers = server.ask("POST", "/v1/score", body)
            return status, headers

        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(ask, range(400)))
        refused = [headers for status, headers in answers if status == 429]
        assert {status for status, _ in answers} == {200, 429}
        assert all(int(headers["retry-after"]) >= 1 for headers in refused)
        assert server.post("/v1/score", {"text": "gun"})[0] == 200


def test_a_client_that_hangs_up_is_not_worked_for(served: Served) -> None:
    def count(name: str) -> float:
        text = served.ask("GET", "/metrics")[1]
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    body = ("\n".join(json.dumps({"text": "hello gun"}) for _ in range(700)) + "\n").encode()
    head = (
        f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/jsonl\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    before = count("tokmarg_rows_total")
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(head.encode() + body)
        client.recv(10)
    time.sleep(1)
    assert count("tokmarg_rows_total") - before < 700
    assert count("tokmarg_in_flight") == count("tokmarg_waiting{") == 0
