"""The examples of docs/client.md do what they say: each is run as it stands, in order."""

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from tests.support.client_stack import PASSWORD, Installed, new_email

from vespid_client import AsyncClient

PAGE = Path(__file__).parents[3] / "docs" / "client.md"
EXAMPLES = re.findall(r"^## ([^\n]+)$|^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def examples() -> list[Any]:
    found, heading = [], ""
    for title, code in EXAMPLES:
        heading = title or heading
        if code:
            found.append(pytest.param(code, id=f"{heading}-{len(found)}"))
    return found


@pytest.mark.parametrize("code", examples())
async def test_an_example_runs(code: str, client: AsyncClient, installed: Installed) -> None:
    key = (await client.api_keys.create("docs", "admin")).value
    given = {"url": installed.url, "key": key, "email": new_email(), "password": PASSWORD}

    def program() -> None:
        compiled = compile(code, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = eval(compiled, given)
        if inspect.isawaitable(outcome):
            asyncio.run(_awaited(outcome))

    try:
        await asyncio.to_thread(program)
    finally:
        for secret in await client.secrets.list().all():
            await client.secrets.delete(secret.id)


async def _awaited(outcome: Any) -> None:
    await outcome


def test_the_page_names_every_method_of_the_client() -> None:
    page = PAGE.read_text()
    nouns = {name: value for name, value in vars(AsyncClient("http://x", api_key="k")).items() if name[0] != "_"}
    methods = [
        (noun, name)
        for noun, value in nouns.items()
        for name, _ in inspect.getmembers(type(value), inspect.isfunction)
        if name[0] != "_"
    ]
    assert [f"{noun}.{name}" for noun, name in methods if f"`{noun}`" not in page or f"`{name}`" not in page] == []
