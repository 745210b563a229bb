"""A task for the Task Scheduler: at the user's logon, or at the start of the system.

The one thing to know: a program is no Windows service by being started, it has to answer the service manager; a task
needs nothing of the kind. Its end is not gentle: `schtasks /End` stops the process at once. What it had finished and
not told is in its journal, and what it was at is reported when it starts again.
"""

from __future__ import annotations

from subprocess import list2cmdline
from xml.sax.saxutils import escape

from vespid_agent.service.plan import MARK, Command, File, Plan, Service


def plan(service: Service) -> Plan:
    name = f"Vespid\\{service.name}"
    path = service.config.parent / f"{service.name}.task.xml"
    return Plan(
        files=(File(path, task_of(service)),),
        commands={
            "install": (
                Command(("schtasks", "/Create", "/F", "/TN", name, "/XML", str(path))),
                Command(("schtasks", "/Run", "/TN", name)),
            ),
            "uninstall": (
                Command(("schtasks", "/End", "/TN", name), may_fail=True),
                Command(("schtasks", "/Delete", "/F", "/TN", name), may_fail=True),
            ),
            "status": (Command(("schtasks", "/Query", "/V", "/FO", "LIST", "/TN", name)),),
            "start": (Command(("schtasks", "/Run", "/TN", name)),),
            "stop": (Command(("schtasks", "/End", "/TN", name)),),
        },
        hints=("It runs while you are logged in.",) if service.scope == "user" else (),
    )


def task_of(service: Service) -> bytes:
    """The task, in the encoding that schtasks reads."""
    words = [*service.command, "--log-to", "file"]
    at_logon = f"<LogonTrigger><Enabled>true</Enabled><UserId>{escape(service.user)}</UserId></LogonTrigger>"
    is_system = service.scope == "system"
    trigger = "<BootTrigger><Enabled>true</Enabled></BootTrigger>" if is_system else at_logon
    # S4U: whether the user is logged on or not, with no password kept. The network needs none of it here.
    logon = "S4U" if is_system else "InteractiveToken"
    text = f"""\
<?xml version="1.0" encoding="UTF-16"?>
<!-- {MARK}. -->
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>Vespid node-agent</Description>
  </RegistrationInfo>
  <Triggers>
    {trigger}
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>{escape(service.user)}</UserId>
      <LogonType>{logon}</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <StartWhenAvailable>true</StartWhenAvailable>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure>
      <Interval>PT1M</Interval>
      <Count>999</Count>
    </RestartOnFailure>
    <Enabled>true</Enabled>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>{escape(words[0])}</Command>
      <Arguments>{escape(list2cmdline(words[1:]))}</Arguments>
    </Exec>
  </Actions>
</Task>
"""
    return text.encode("utf-16")
