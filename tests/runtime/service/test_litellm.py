"""LiteLLM's proxy with the server as its guardrail, in front of a stub model.

``litellm[proxy]`` brings eighty packages and lives in an environment of its own: $LITELLM is its ``litellm`` command.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.served import Served

CONFIG = """
model_list:
  - {{model_name: kind, litellm_params: {{model: openai/stub, api_key: none, mock_response: hello}}}}
  - {{model_name: rude, litellm_params: {{model: openai/stub, api_key: none, mock_response: hello idiot}}}}
general_settings: {{master_key: sk-of-the-test}}
guardrails:
  - guardrail_name: tokmarg
    litellm_params:
      guardrail: generic_guardrail_api
      mode: [pre_call, post_call]
      api_base: {url}
      default_on: true
"""


def guardrail(served: Served, **request: Any) -> Any:
    body = {"request_data": {}, "litellm_call_id": None, "model": "gpt", **request}
    status, answer = served.post("/beta/litellm_basic_guardrail_api", body)
    return answer if status == 200 else (status, answer["error"]["message"])


def test_requests_are_judged_by_their_conversation(served: Served) -> None:
    talk = [{"role": "system", "content": "idiot"}, {"role": "user", "content": "hello"}]
    assert guardrail(served, input_type="request", texts=["idiot", "hello"], structured_messages=talk) == {
        "action": "NONE"
    }
    parts = [{"type": "text", "text": "gun"}, {"type": "image_url", "image_url": {"url": "x"}}]
    talk = [*talk, {"role": "assistant", "content": "hello"}, {"role": "user", "content": parts}]  # type: ignore[dict-item]
    assert guardrail(served, input_type="request", texts=["gun"], structured_messages=talk) == {
        "action": "BLOCKED",
        "blocked_reason": "flagged by words: A Weapons",
    }
    assert guardrail(served, input_type="request", texts=["hello", "gun"])["action"] == "BLOCKED"
    assert guardrail(served, input_type="request", texts=["", "hello"]) == {"action": "NONE"}


def test_responses_are_judged_as_the_assistants(served: Served) -> None:
    talk = [{"role": "user", "content": "hello"}]
    assert guardrail(served, input_type="response", texts=["hello"], structured_messages=talk) == {"action": "NONE"}
    refused = [*talk, {"role": "assistant", "content": None, "refusal": "gun"}]
    again = [*refused, {"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]
    assert guardrail(served, input_type="request", texts=["hello"], structured_messages=again)["action"] == "BLOCKED"
    assert guardrail(served, input_type="response", texts=["hello", "idiot"]) == {
        "action": "BLOCKED",
        "blocked_reason": "flagged by words: B Insults",
    }


def test_what_is_wrong(served: Served) -> None:
    assert guardrail(served, input_type="neither") == (400, "input_type must be request or response, not 'neither'")
    assert guardrail(served, input_type="request", texts=[3])[0] == 400
    talk = [{"role": "user", "content": [{"type": "text", "text": 7}]}]
    answer = guardrail(served, input_type="request", texts=["hello"], structured_messages=talk)
    assert answer == (400, "structured_messages[0].content[0].text must be a text, not 7")
    params = {"model": "nobody"}
    assert guardrail(served, input_type="request", additional_provider_specific_params=params)[0] == 404
    assert guardrail(served, input_type="request", texts=["hello " * 300])[0] == 400  # LiteLLM refuses the request then


@pytest.fixture(scope="module")
def proxy(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    command = os.environ.get("LITELLM") or shutil.which("litellm")
    if command is None:
        pytest.skip("$LITELLM does not name the command of an installed litellm[proxy]")
    folder = tmp_path_factory.mktemp("litellm")
    (folder / "config.yaml").write_text(CONFIG.format(url=served.url), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(folder)}
    arguments = [command, "--config", str(folder / "config.yaml"), "--port", str(port), "--host", "127.0.0.1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        wait_for(port, process, folder / "log")
        yield port
    finally:
        process.terminate()
        process.wait(60)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 300
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < until, log.read_text(encoding="utf-8")
            time.sleep(0.2)


def chat(port: int, model: str, *messages: str) -> tuple[int, Any]:
    talk = [{"role": "user" if n % 2 == 0 else "assistant", "content": text} for n, text in enumerate(messages)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = json.dumps({"model": model, "messages": talk})
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-of-the-test"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


@pytest.mark.slow
def test_litellms_proxy_asks_before_and_after_the_model(proxy: int) -> None:
    status, answer = chat(proxy, "kind", "hello", "hello", "hello")
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "hello")
    status, answer = chat(proxy, "kind", "hello gun")
    assert (status, "flagged by words: A Weapons" in answer["error"]["message"]) == (400, True)
    status, answer = chat(proxy, "rude", "hello")
    assert (status, "flagged by words: B Insults" in answer["error"]["message"]) == (400, True)
