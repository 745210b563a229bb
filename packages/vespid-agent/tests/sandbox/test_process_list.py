"""Processes as `ps` shows them."""

import asyncio
import os
import time

from vespid_agent.sandbox import process_list, process_tree
from vespid_agent.sandbox.process_list import Process

# What macOS 14 prints for `ps -axEww -o pid=,ppid=,pgid=,stat=,lstart=,command=`, shortened.
MACOS = """\
    1     0     1 Ss   Sun Nov  1 08:00:00 2026     /sbin/launchd
  501   499   501 S+   Mon Nov 23 13:14:00 2026     /opt/tool --name a b PATH=/bin VESPID_TASK_TOKEN=abc
  502   501   501 Z    Mon Nov 23 13:14:01 2026     (sleep)
  503     1   503 ??   Mon Nov 23 13:14:01 2026
"""


def test_lines_of_macos_are_understood_and_zombies_left_out() -> None:
    launchd, tool, nameless = process_list.parse(MACOS)
    assert (launchd.pid, launchd.parent, launchd.command) == (1, 0, "/sbin/launchd")
    assert (tool.pid, tool.parent, tool.group, tool.started) == (501, 499, 501, 1795439640)
    assert tool.command.endswith("VESPID_TASK_TOKEN=abc")
    assert (nameless.pid, nameless.command) == (503, "")


def test_task_is_its_group_whoever_has_its_token_and_all_below() -> None:
    def process(pid: int, parent: int, group: int, command: str = "x") -> Process:
        return Process(pid, parent, group, 0, command)

    everyone = [
        process(10, 1, 10),
        process(11, 10, 10),
        process(12, 11, 12),
        process(13, 12, 13),
        process(20, 1, 20, "tool VESPID_TASK_TOKEN=abc"),
        process(21, 20, 21),
        process(30, 1, 30, "tool VESPID_TASK_TOKEN=other"),
        process(os.getpid(), 1, 10),
    ]
    assert process_list.of_task(everyone, "abc", 10) == [10, 11, 12, 13, 20, 21]
    assert process_list.of_task(everyone, "abc", None) == [20, 21]


async def test_a_process_is_listed_with_its_start_its_group_and_its_environment() -> None:
    before = int(time.time())
    sleeping = await asyncio.create_subprocess_exec(
        "sleep", "60", env={process_tree.TOKEN_VARIABLE: "a-token"}, start_new_session=True
    )
    try:
        found = next(process for process in await process_list.listed() if process.pid == sleeping.pid)
        assert (found.parent, found.group) == (os.getpid(), sleeping.pid)
        assert found.started_at(before)
        assert f"{process_tree.TOKEN_VARIABLE}=a-token" in found.command
    finally:
        sleeping.kill()
        await sleeping.wait()
