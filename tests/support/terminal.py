"""What commands write to a terminal: a process on a pseudo-terminal, and the screen that comes of it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from places import ROOT

SOURCE = str(ROOT / "src")
START = [sys.executable, "-c", "from rotanext.cli.main import main; main()"]
ESCAPE = re.compile(r"\x1b\[[?\d;]*([A-Za-z])|\x1b\]8;[^\x1b]*\x1b\\\\")
COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
WIDTH = 100


def on_terminal(*arguments: object, cwd: Path | None = None, code: int | None = None, width: int = WIDTH, **more: str) -> str:
    """What `rotanext ARGUMENTS` writes to a terminal `width` columns wide; `more` are environment variables.

    code: the exit code that it must have; any where None.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES", "TTY_INTERACTIVE", "TTY_COMPATIBLE")
    clean = {key: value for key, value in os.environ.items() if key not in unwanted}
    process = subprocess.Popen(
        [*START, *map(str, arguments)],
        stdout=follower,
        stderr=follower,
        stdin=follower,
        cwd=cwd,
        env=clean | {"PYTHONPATH": SOURCE, "TERM": "xterm-256color"} | more,
    )
    os.close(follower)
    written = b""
    try:
        while block := os.read(leader, 4096):
            written += block
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        process.wait(60)
        os.close(leader)
    text = written.decode()
    assert code in (None, process.returncode), text
    return text


def screen(written: str, width: int = WIDTH) -> list[str]:
    """The lines that stand on a terminal at the end: cursor movements and erasures carried out, colours left out."""
    rows, row, column, at = [""], 0, 0, 0
    while at < len(written):
        if code := ESCAPE.match(written, at):
            at = code.end()
            count = int(re.sub(r"\D.*", "", code[0][2:]) or 1) if code[1] in ("A", "K") else 0
            if code[1] == "A":
                row = max(0, row - count)
            elif code[1] == "K":
                assert count == 2, f"{code[0]!r} is not known here"
                rows[row] = ""
            else:
                assert code[1] in ("m", "h", "l", None), f"{code[0]!r} is not known here"
            continue
        letter, at = written[at], at + 1
        if letter == "\r":
            column = 0
        elif letter == "\n" or column == width:
            row, column = row + 1, 0
            rows += [""] * (row - len(rows) + 1)
        if letter not in "\r\n":
            rows[row] = rows[row].ljust(column)[:column] + letter + rows[row][column + 1 :]
            column += 1
    return [text.rstrip() for text in rows]


def frames(written: str) -> list[str]:
    """All that ever stood in a line, in order, colours left out."""
    return [line.strip() for line in re.split(r"[\r\n]+", ESCAPE.sub("", written)) if line.strip()]
