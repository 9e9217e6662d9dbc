"""Which files and folders somebody wants left out: patterns as in .gitignore, on the command line or in .mmignore."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mlx_mm.errors import InputError, shown

FILE = b".mmignore"
MOST_BYTES = 1 << 20  # of such a file


@dataclass(frozen=True)
class Rule:
    """One pattern. below: the folder of its file, relative to the root, with a slash at its end or empty. keeps: it
    takes back what one before it left out. folders: it says nothing about files."""

    below: bytes
    expression: re.Pattern[bytes]
    keeps: bool
    folders: bool

    def fits(self, path: bytes, is_folder: bool) -> bool:
        """path: relative to the root."""
        if (self.folders and not is_folder) or not path.startswith(self.below):
            return False
        return self.expression.fullmatch(path, len(self.below)) is not None


def left_out(path: bytes, is_folder: bool, rules: Iterable[Rule]) -> bool:
    """Whether the last rule that fits leaves a path out; what lies in a folder that is left out is not asked for."""
    return next((not rule.keeps for rule in reversed(tuple(rules)) if rule.fits(path, is_folder)), False)


def rules_of(patterns: Iterable[str], below: bytes = b"") -> tuple[Rule, ...]:
    """From patterns that a user gives; InputError for those that are none."""
    found = []
    for pattern in patterns:
        try:
            rule = _rule(pattern.encode("utf-8", "surrogateescape"), below) if isinstance(pattern, str) else None
        except (re.error, UnicodeEncodeError):
            rule = None
        if rule is None:
            raise InputError(
                f"exclude has {shown(pattern)}; expected a pattern as in .gitignore, such as *.tmp, /drafts/ or "
                "2019/**/raw. Correct it, or leave it out."
            )
        found.append(rule)
    return tuple(found)


def read_rules(data: bytes, below: bytes) -> tuple[Rule, ...]:
    """Of a file .mmignore; lines that are no patterns say nothing."""
    found = []
    for line in data[:MOST_BYTES].splitlines():
        try:
            rule = _rule(line, below)
        except re.error:
            continue
        if rule is not None:
            found.append(rule)
    return tuple(found)


def _rule(line: bytes, below: bytes) -> Rule | None:
    pattern = line.rstrip(b"\r\n")
    while pattern.endswith(b" ") and not pattern.endswith(b"\\ "):
        pattern = pattern[:-1]
    if not pattern or pattern.startswith(b"#"):
        return None
    keeps = pattern.startswith(b"!")
    pattern = pattern[1:] if keeps else pattern
    folders = pattern.endswith(b"/")
    pattern = pattern.rstrip(b"/") if folders else pattern
    if not pattern:
        return None
    anchored = b"/" in pattern
    body = _expression(pattern.removeprefix(b"/"))
    return Rule(below, re.compile(body if anchored else b"(?:.*/)?" + body, re.DOTALL), keeps, folders)


def _expression(pattern: bytes) -> bytes:
    parts, place = [], 0
    while place < len(pattern):
        rest = pattern[place:]
        if rest.startswith(b"**/") and (place == 0 or pattern[place - 1 : place] == b"/"):
            parts.append(b"(?:.*/)?")
            place += 3
        elif rest == b"**" and place and pattern[place - 1 : place] == b"/":
            parts.append(b".+")
            place += 2
        elif rest[:1] == b"*":
            parts.append(b"[^/]*")
            place += len(rest) - len(rest.lstrip(b"*"))
        elif rest[:1] == b"?":
            parts.append(b"[^/]")
            place += 1
        elif rest[:1] == b"[" and (end := rest.find(b"]", 2)) > 0:
            inside = rest[1:end].replace(b"\\", b"\\\\").replace(b"[", b"\\[")
            negated = inside[:1] in (b"!", b"^")
            parts.append(b"(?!/)[" + (b"^" if negated else b"") + (inside[1:] if negated else inside) + b"]")
            place += end + 1
        elif rest[:1] == b"\\" and len(rest) > 1:
            parts.append(re.escape(rest[1:2]))
            place += 2
        else:
            parts.append(re.escape(rest[:1]))
            place += 1
    return b"".join(parts)
