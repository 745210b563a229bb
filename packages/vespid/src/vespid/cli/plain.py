"""Text of agents, workflows and models on a terminal: it is hostile until it went through here.

Three ways. `plain` is for names and messages: one line, nothing that a terminal obeys. `coloured` is for output of
programs: several lines, and of all escape sequences only colours are left. `visible` is for what a person decides
about: nothing is taken away, what would be obeyed or not be seen is spelled out.
"""

import re
import unicodedata

# CSI, then strings that a terminator ends (OSC, DCS, SOS, PM, APC), then the short ones. What is cut off in its middle
# is no sequence: its introducer goes as any control character, and the rest of it is shown.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]+[0-~]|[0-OQ-WYZ\\`-~])")
_COLOUR = re.compile(r"\x1b\[([0-9;]*)m")
# Two that hide what is written: blink and conceal.
_HIDING = frozenset({"5", "6", "8"})
# Scripts and emoji are written with these.
_JOINERS = "\u200c\u200d"
_UNSEEN = _JOINERS + "\u2028\u2029\u115f\u1160\u3164\uffa0"
RESET = "\x1b[0m"


def plain(text: str) -> str:
    """One line without anything that a terminal obeys; breaks and tabs are spaces."""
    found = _SEQUENCE.sub("", text)
    spaced = "".join(" " if character in "\n\r\t\v\f\x85\u2028\u2029" else character for character in found)
    return "".join(character for character in spaced if not _is_obeyed(character))


def coloured(text: str, *, keep_colours: bool) -> str:
    """Lines with colours at most. Colours that the text leaves on are switched off at its end."""
    parts: list[str] = []
    is_on = False
    at = 0
    for match in _SEQUENCE.finditer(text):
        parts.append(_printable(text[at : match.start()]))
        at = match.end()
        colour = _COLOUR.fullmatch(match.group())
        if keep_colours and colour is not None and not _hides(colour.group(1)):
            parts.append(match.group())
            is_on = colour.group(1) not in ("", "0")
    parts.append(_printable(text[at:]))
    return "".join(parts) + (RESET if is_on else "")


def visible(text: str) -> str:
    """All of it, with `<U+001B>` for what would be obeyed or not be seen. Line feeds and tabs stay."""
    return "".join(
        character if character in "\n\t" or not (_is_obeyed(character) or character in _UNSEEN) else _spelled(character)
        for character in text
    )


def _printable(text: str) -> str:
    # A lone return would let what follows overwrite what was written.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(character for character in text if character in "\n\t" or not _is_obeyed(character))


def _hides(parameters: str) -> bool:
    numbers = iter(parameters.split(";"))
    for number in numbers:
        if number in ("38", "48", "58"):
            # 38;5;n and 38;2;r;g;b: what follows is a colour and no command.
            for _ in range(1 if next(numbers, "") == "5" else 3):
                next(numbers, "")
        elif number.lstrip("0") in _HIDING:
            return True
    return False


def _is_obeyed(character: str) -> bool:
    """Control characters, and those that turn the direction of writing or cannot be seen."""
    if " " <= character <= "~":
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in _JOINERS


def _spelled(character: str) -> str:
    return f"<U+{ord(character):04X}>"
