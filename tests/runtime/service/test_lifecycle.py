"""From start to end: who may ask, what is read again, and that nothing accepted is lost."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import ssl
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_python
from tests.support.command_line import Run
from tests.support.served import Served, serving
from tokmarg import Guard
from tokmarg.errors import TokmargError
from tokmarg.service.access import Access, is_loopback

TOKEN, OTHER = "0123456789abcdef-one", "0123456789abcdef-two"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# Who may ask


def test_tokens_and_reloading_them(table_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# of the shop\n{TOKEN}\n\n", encoding="utf-8")
    with serving("--bundle", table_bundle, "--tokens", file, "--threads", "1") as server:

        def status(headers: dict[str, str], path: str = "/v1/models") -> int:
            return server.ask("GET", path, None, headers)[0]

        assert [status(h) for h in ({}, bearer(OTHER), bearer(TOKEN), {"X-API-Key": TOKEN})] == [401, 401, 200, 200]
        assert [status({}, path) for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 401]
        answer = server.ask("POST", "/v1/moderations", {"input": "gun"})
        assert (answer[0], answer[1]["error"]["code"]) == (401, "invalid_api_key")
        assert answer[2]["www-authenticate"] == "Bearer"
        file.write_text(OTHER, encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        server.wait("reloaded")
        assert [status(bearer(OTHER)), status(bearer(TOKEN))] == [200, 401]
        file.write_text("short", encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        server.wait("not reloaded: .*a token has at least 16 characters")
        assert status(bearer(OTHER)) == 200
        assert server.end() == 0
    log = "".join(server.log)
    assert TOKEN not in log
    assert OTHER not in log


def test_token_files(tmp_path: Path) -> None:
    for text, message in ("", "holds no token"), ("abc", "16"), ("0123456789abcdef 0123456789abcdef", "no spaces"):
        (tmp_path / "tokens").write_text(text, encoding="utf-8")
        with pytest.raises(TokmargError, match=message):
            Access(tmp_path / "tokens")
    with pytest.raises(TokmargError, match="cannot be read"):
        Access(tmp_path / "missing")


def test_addresses() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "")] == [False] * 5


# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "give --tokens FILE, or --insecure"),
        (["--tokens", "/nowhere"], 1, "/nowhere: cannot be read"),
        (["--ssl-certfile", "a"], 2, "go together"),
        (["--threshold", "0.5", "--thresholds", "x"], 2, "exclude each other"),
        (["--alias", "x"], 2, "must be NAME=BUNDLE"),
        (["--alias", "x=y"], 1, "alias 'x' means 'y', which is no bundle here (bundles: words)"),
        (["--categories", "openai"], 1, "says nothing of OpenAI's categories"),
        (["--categories", "/nowhere.toml"], 1, "/nowhere.toml: cannot be read"),
        (["--thresholds", "/nowhere.toml"], 1, "/nowhere.toml: cannot be read"),
        (["--bundle", "/nowhere"], 1, "no such folder"),
        (["--timeout", "0"], 2, "--timeout"),
    ],
)
def test_wrong_usage(tokmarg: Run, arguments: list[str], code: int, message: str) -> None:
    result = tokmarg("serve", "--device", "cpu", *arguments)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr


def test_two_bundles_of_one_name(tokmarg: Run, word_bundle: Path) -> None:
    result = tokmarg("serve", "--bundle", word_bundle, "--bundle", word_bundle)
    assert result.exit_code == 1
    assert "two bundles are called 'words'" in result.stderr


# Several bundles, categories


def test_several_bundles_and_aliases(table_bundle: Path, word_bundle: Path) -> None:
    arguments = ["--bundle", f"a={table_bundle}", "--bundle", f"b={word_bundle}", "--alias", "gpt=b"]
    with serving(*arguments, "--threads", "1") as server:
        assert [each["id"] for each in server.ask("GET", "/v1/models")[1]["data"]] == ["a", "b"]
        names = {}
        for model in ("a", "b", "gpt", "text-moderation-latest", None, "tests/words"):
            body = {"input": "gun"} if model is None else {"input": "gun", "model": model}
            status, answer = server.post("/v1/moderations", body)
            assert status == 200
            names[model] = list(answer["results"][0]["categories"])
            assert answer["model"] == "tests/words"  # which a client may ask for again
        assert names["b"] == ["A", "B", "C"]  # one of them has no table: label ids
        rows = server.ask("POST", "/v1/score?model=b", b'{"text": "gun"}\n', {"Content-Type": "application/jsonl"})[1]
        assert json.loads(rows)["flagged"]
        assert server.post("/v1/score", {"text": "gun", "model": "c"})[0] == 404


def test_a_table_of_ones_own(word_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text('B = ["harassment", "hate"]\n', encoding="utf-8")
    with serving("--bundle", word_bundle, "--categories", file, "--threads", "1") as server:
        for text, true in ("idiot", ["harassment", "hate"]), ("gun", []):
            result = server.post("/v1/moderations", {"input": text})[1]["results"][0]
            assert result["flagged"]
            assert [name for name, value in result["categories"].items() if value] == true


# Thresholds and calibration, read again under load


def test_thresholds_are_read_again_and_nothing_is_lost(table_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "thresholds.toml"
    file.write_text("unsafe = 1.0\n", encoding="utf-8")
    statuses: list[int] = []
    with serving("--bundle", table_bundle, "--thresholds", file, "--threads", "1") as server:
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                statuses.append(server.post("/v1/score", {"text": "hello gun"})[0])

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert server.post("/v1/moderations", {"input": "gun"})[1]["results"][0]["flagged"] is False
        for limit, flagged in ("0.1", True), ("1.0", False), ("0.1", True):
            file.write_text(f"unsafe = {limit}\n", encoding="utf-8")
            server.log.clear()
            server.process.send_signal(signal.SIGHUP)
            server.wait("reloaded")
            assert server.post("/v1/moderations", {"input": "gun"})[1]["results"][0]["flagged"] is flagged
        file.write_text("unsafe = 7\n", encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        server.wait("not reloaded: .*unsafe: must lie between 0 and 1")
        assert server.post("/v1/moderations", {"input": "gun"})[1]["results"][0]["flagged"] is True
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}


def test_a_base_rate_for_all_requests(tokmarg: Run, table_bundle: Path, tmp_path: Path) -> None:
    data, file = tmp_path / "data.jsonl", tmp_path / "calibration.json"
    rows = [{"text": "gun idiot"[: 3 + 6 * (n % 2)], "labels": ["A"] if n % 3 else []} for n in range(30)]
    rows += [{"text": "hello", "labels": ["A"] if n % 9 == 0 else []} for n in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert tokmarg("calibrate", "--bundle", table_bundle, "--data", data, "-o", file).exit_code == 0
    guard = Guard.load(table_bundle, device="cpu", calibration=file)
    options = ("--bundle", table_bundle, "--device", "cpu", "--calibration", file)
    with serving(*options, "--prior", 0.01) as server:
        expected = guard.score("gun", prior=0.01)
        assert expected.unsafe.probability < guard.score("gun").unsafe.probability
        assert server.post("/v1/score", {"text": "gun"})[1]["unsafe"] == expected.unsafe.probability
        (result,) = server.post("/v1/moderations", {"input": "gun"})[1]["results"]
        assert result["tokmarg"]["unsafe"] == expected.unsafe.probability
        own = server.post("/v1/score", {"text": "gun", "options": {"prior": 0.5}})[1]
        assert own["unsafe"] == guard.score("gun", prior=0.5).unsafe.probability
        status, row = server.post("/v1/score", {"text": "gun", "options": {"method": "greedy"}})
        assert (status, row["method"]) == (200, "greedy")
        whole = file.read_text(encoding="utf-8")
        document = json.loads(whole)
        document["unsafe"]["share"] = None
        file.write_text(json.dumps(document), encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        server.wait("not reloaded: prior: the calibration has no share of unsafe records")
        assert server.post("/v1/score", {"text": "gun"})[1]["unsafe"] == expected.unsafe.probability
    refused = tokmarg("serve", "--bundle", table_bundle, "--prior", 0.01)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "prior: shifts calibrated probabilities, but the guard is not calibrated" in refused.stderr


# The end


def test_sigterm_under_load_loses_nothing(table_bundle: Path) -> None:
    """Who was let in is answered; a connection that is closed was told so before, and a new one is refused."""
    lost: list[str] = []
    answered = [0]
    with serving("--bundle", table_bundle, "--drain", "1", "--threads", "2") as server:

        def asking() -> None:
            with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
                ask(connection)

        def ask(connection: http.client.HTTPConnection) -> None:
            while True:
                try:
                    connection.connect()
                except OSError:
                    return  # nobody listens any more
                fresh, last = True, False
                while not last:
                    try:
                        connection.request("POST", "/v1/score", json.dumps({"text": "hello gun"}))
                        response = connection.getresponse()
                        assert response.status == 200
                        assert json.loads(response.read())["flagged"]
                        answered[0] += 1
                        fresh = False
                        last = response.getheader("connection") == "close"
                    except (OSError, http.client.HTTPException, AssertionError) as error:
                        if not (fresh and isinstance(error, ConnectionError)):  # else refused, as the last to come
                            lost.append(repr(error))
                        return
                connection.close()

        threads = [threading.Thread(target=asking) for _ in range(16)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.ask("GET", "/readyz")[:2] == (503, {"status": "draining"})
        assert server.ask("GET", "/healthz")[0] == 200
        assert server.process.wait(60) == 0
        for thread in threads:
            thread.join()
    assert lost == []
    assert answered[0] > 16


def test_a_stream_in_flight_is_finished(table_bundle: Path) -> None:
    with serving("--bundle", table_bundle, "--drain", "0", "--threads", "1") as server:
        lines = b"\n".join(b'{"text": "hello gun"}' for _ in range(2000))
        rows: list[Any] = []

        def ask() -> None:
            headers = {"Content-Type": "application/jsonl"}
            rows.extend(server.ask("POST", "/v1/score", lines, headers)[1].splitlines())

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.5)
        assert server.end() == 0
        thread.join()
    assert len(rows) == 2000


def test_contents_do_not_stand_in_the_log(table_bundle: Path) -> None:
    secret = "xyzzy-secret"
    with serving("--bundle", table_bundle, "--threads", "1") as server:
        for body in ({"input": secret}, {"input": [secret, 3]}, {"model": secret, "input": "x"}, secret.encode()):
            server.post("/v1/moderations", body)
            server.post("/v1/score", body)
        server.ask("GET", f"/{secret}?text={secret}")
        assert server.end() == 0
    assert secret not in "".join(server.log)


def test_https(table_bundle: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not there")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    names = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*map(str, command), *names], check=True, capture_output=True)
    with serving("--bundle", table_bundle, "--ssl-certfile", certificate, "--ssl-keyfile", key) as server:
        context = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=30)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
        connection.close()


def test_without_the_extra(word_bundle: Path) -> None:
    code = "import sys; sys.modules['starlette'] = None; from tokmarg.cli import main; main(sys.argv[1:])"
    done = run_python(code, "serve", "--bundle", str(word_bundle))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'Error: tokmarg serve needs starlette: pip install "tokmarg[serve]"\n'


def test_same_bytes_alone_and_under_load(served: Served) -> None:
    """fp32: the same up to rounding; tests/runtime/service/test_async_guard.py has int8, to the last bit."""
    body = {"text": "hello gun. idiot", "options": {"tolerance": 1e-9}}
    alone = served.post("/v1/score", body)[1]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(served.post("/v1/score", body)[1])) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in found:
        assert row["labels"] == pytest.approx(alone["labels"], abs=1e-5)
