"""A conversation in words: messages, answers as they are made, tools' calls folded to a line, where it has moved."""

from collections.abc import Mapping
from typing import Any

from vespid.cli.output import Output
from vespid.cli.run_story import short_json, tool_line


class SessionStory:
    """Tells one session. What comes in pieces is on a line that is open until something else is told."""

    def __init__(self, out: Output, names: Mapping[str, str] | None = None) -> None:
        self._out = out
        # Of agents, by id.
        self._names = names or {}
        # What the open line is: text of an answer, a tool's call; empty: there is none.
        self._open = ""
        # Which call of a tool the open line is about.
        self._call = ""
        # Text that came ahead of the result of that call: events go through the database, text does not.
        self._ahead: list[str] = []
        # Whether text of the running answer was shown.
        self._has_text = False

    def delta(self, text: str) -> None:
        """More of the answer."""
        if self._open == "tool":
            self._ahead.append(text)
            return
        if self._open != "text":
            self._close()
            self._out.start_line("agent  ", "green")
            self._open = "text"
        self._has_text = True
        self._out.piece(text)

    def restarted(self) -> None:
        """What was shown of the answer is void."""
        self._ahead.clear()
        self._close()
        self._has_text = False
        self._out.line(("       (the answer begins anew)", "yellow"))

    def final(self, text: str) -> None:
        """The answer is whole."""
        if self._ahead:
            self._close()
        if not self._has_text:
            self._close()
            self._labelled("agent  ", "green", text)
        self._close()
        self._has_text = False

    def failed(self, code: str, message: str) -> None:
        """There is no answer."""
        self._close()
        self._has_text = False
        self._out.line(("error  ", "red"), f"{code}, {message}" if message and message != code else code)

    def message(self, text: str) -> None:
        """Something that was said by a person."""
        self._close()
        self._labelled("you    ", "cyan", text)

    def happened(self, event_type: str, payload: Any) -> None:
        """Any persisted event, as it is found in the history."""
        told: Mapping[str, Any] = payload if isinstance(payload, Mapping) else {}
        # What a host tells of a tool is within.
        if event_type in ("tool_call", "tool_result") and isinstance(told.get("data"), Mapping):
            told = told["data"]
        if event_type == "user_message":
            self.message(str(told.get("message", "")))
            for attachment in told.get("attachments") or []:
                self._out.line(("       attached: ", "dim"), str(attachment.get("name", "")))
        elif event_type == "agent_final":
            self.final(str(told.get("message", "")))
        elif event_type == "error":
            self.failed(str(told.get("code", "")), str(told.get("message", "")))
        elif event_type == "tool_call":
            self._close()
            self._out.start_line(f"       ⚙ {tool_line(told)}", "blue")
            self._open, self._call = "tool", _call_of(told)
        elif event_type == "tool_result":
            self._tool_result(told)
        elif event_type == "system":
            self._system(told)
        elif event_type == "agent_handoff":
            self._aside(f"{told.get('to') or 'the main agent'} answers from here on")
        elif event_type == "agent_message":
            self._close()
            self._labelled("agent  ", "green", str(told.get("message", told.get("text", ""))))

    def end(self) -> None:
        """Nothing more comes."""
        self._close()

    def _tool_result(self, told: Mapping[str, Any]) -> None:
        is_error = bool(told.get("isError"))
        said = short_json(told.get("content", told.get("result", told.get("output", ""))))
        if self._open != "tool" or self._call != _call_of(told):
            self._close()
            self._out.start_line(f"       ⚙ {told.get('tool', 'tool')}", "blue")
        self._open = ""
        self._out.line(
            (" ✗ " if is_error else " → ", "red" if is_error else "dim"), (said, "red" if is_error else "dim")
        )
        ahead, self._ahead = self._ahead, []
        for text in ahead:
            self.delta(text)

    def _system(self, told: Mapping[str, Any]) -> None:
        action = told.get("action")
        if action == "session_executor_failover":
            self._aside(f"{self._host(told.get('from'))} was lost; it goes on at {self._host(told.get('to'))}")
        elif action == "turn_restarted":
            self._aside("the answer is made again")
        elif action == "waiting":
            is_away = str(told.get("reason")).startswith("NONE_")
            self._aside(f"waiting for a machine that is {'connecting again' if is_away else 'busy'}")
        elif action == "session_reset":
            self._aside("begun anew" + (", all is forgotten" if told.get("mode") == "clear_history" else ""))
        else:
            self._aside(f"{action or short_json(told)}")

    def _host(self, told: Any) -> str:
        if not isinstance(told, Mapping):
            return "no machine"
        executor = str(told.get("executorId") or told.get("pool") or "a machine")
        return self._names.get(executor, executor)

    def _aside(self, text: str) -> None:
        self._close()
        self._out.line(("     ~ ", "yellow"), (text, "yellow"))

    def _labelled(self, label: str, style: str, text: str) -> None:
        first, *rest = text.split("\n")
        self._out.output_line((), label, first, style)
        for line in rest:
            self._out.output_line((), " " * len(label), line, style)

    def _close(self) -> None:
        if self._open:
            self._open = ""
            self._out.end_line()
        ahead, self._ahead = self._ahead, []
        if ahead:
            # The result does not come any more.
            for text in ahead:
                self.delta(text)
            self._close()


def _call_of(told: Mapping[str, Any]) -> str:
    """What tells one call from another."""
    return str(told.get("callId") or told.get("tool") or "")
