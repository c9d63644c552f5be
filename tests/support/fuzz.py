"""Hostile and broken files against every reader: a valid result or a `UserError`, in time, in little memory, and nothing run.

    python tests/support/fuzz.py                                      # every reader, a few thousand inputs
    python tests/support/fuzz.py --reader images --count 50000       # a campaign
    python tests/support/fuzz.py --reader images --seed 0 --index 7  # one input again, with its traceback; --keep FILE writes it

Each reader works in a process of its own that takes one input after another. An input is made from (reader, seed, index) alone.
The parent kills a process that is silent for too long; the process itself measures its peak memory input by input, and an audit
hook sees whatever the file makes the interpreter do. New readers are one line in `fuzz_readers.READERS`.
"""

import argparse
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from process_memory import forget_peak, status
from rotanext.errors import UserError

MEMORY = 2 << 30  # bytes a process may hold at its peak, everything included
SECONDS = 10.0  # for one input
CANARY = "canary"  # what the hostile files in tests/support/fuzz_checkpoints.py try to make
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "os.startfile", "subprocess.Popen", "pty.spawn",
    "socket.connect", "socket.getaddrinfo", "ctypes.dlopen", "webbrowser.open", "shutil.rmtree", "pickle.find_class",
)  # fmt: skip


class Reader(NamedTuple):
    """A reader under test: what its inputs are made from and how, and a function that reads one and checks what it got.

    `read` gets the path of a file with the input's bytes; it returns for a valid result (asserting what that must fulfil) and lets
    a `UserError` through, whose message must name the file, or `named` where the error belongs to something around it.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: Callable[[Random, Sequence[bytes]], bytes]
    read: Callable[[Path], object]
    file: str
    named: str = ""
    share: float = 1.0  # of the count: less for slow ones
    known: tuple[str, ...] = ()  # parts of failures that are reported elsewhere: shown, but no reason to fail


class Failure(NamedTuple):
    """An input whose outcome is neither a valid result nor a UserError."""

    index: int
    what: str


@dataclass
class Outcome:
    """What became of a reader's inputs."""

    name: str
    tried: int = 0
    accepted: int = 0
    refused: int = 0
    noisy: int = 0  # inputs that made a library write to stderr by itself
    peak: int = 0  # bytes
    slowest: float = 0.0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    known: list[Failure] = field(default_factory=list)

    def text(self) -> str:
        """One line, and one for each kind of failure."""
        line = (
            f"{self.name:<20} {self.tried:>7} tried {self.accepted:>7} accepted {self.refused:>7} refused {self.noisy:>6} noisy  "
            f"{self.seconds:>5.0f} s  slowest {self.slowest:5.2f} s  peak {self.peak >> 20:>5} MB  {len(self.failures)} failures"
            + f" ({len(self.known)} known)"
            * bool(self.known)
        )
        alike: dict[str, list[Failure]] = {}
        for failure in self.failures + self.known:
            alike.setdefault(failure.what.split(": ")[0], []).append(failure)
        return "\n".join([line, *(f"    index {f[0].index} (and {len(f) - 1} alike): {f[0].what}" for f in alike.values())])


def make_input(reader: Reader, seeds: Sequence[bytes], seed: int, index: int) -> bytes:
    """The input of that number; the first ones are the whole seeds themselves."""
    if index < len(seeds):
        return seeds[index]
    return reader.mutate(Random(f"{reader.name}/{seed}/{index}"), seeds)


# --- in the child


class _Watch:
    """The audit hook: what forbidden events happened while a file was read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.active, self.events = str(folder.resolve()), False, []  # type: ignore[var-annotated]

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in FORBIDDEN or (event == "compile" and arguments[1] == "<string>" and CANARY in repr(arguments[0])):
            self.events.append(f"{event} {arguments!r:.80}")
        elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            inside = os.path.realpath(arguments[0]).startswith((f"{self.folder}/", "/dev/null"))
            if writes and not inside:
                self.events.append(f"open for writing {arguments[0]!r:.80}")


def _try(reader: Reader, path: Path) -> tuple[str, str]:
    """One input: "accepted", "refused" or "failed", and why."""
    try:
        reader.read(path)
        return "accepted", ""
    except UserError as error:
        message = str(error)
        named = any(name in message for name in (path.name, reader.named or path.name))
        if not named or len(message) > 20_000:
            return "failed", f"a message that names no file, or of {len(message)} characters: {message[:200]!r}"
        return "refused", ""
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(at) if "rotanext" in f.filename), at[-1])
        return "failed", f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:160]!r}"


def _work(reader: Reader, seeds: Sequence[bytes], seed: int, indices: range, folder: Path, report: int) -> None:
    """Read the inputs of these numbers, telling the parent through the pipe `report`."""
    os.chdir(folder)
    errors = os.open("stderr", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    warnings.simplefilter("ignore")
    cap = status("VmData") + 3 * MEMORY  # spares the machine; what is resident counts, see below
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = _Watch(folder)
    path = folder / reader.file
    for index in range(min(len(seeds), 40)):  # imports on first use are no deeds of a file
        path.write_bytes(seeds[index])
        _try(reader, path)
    sys.addaudithook(watch)
    for index in indices:
        os.write(report, f"{index} begin\n".encode())
        data = make_input(reader, seeds, seed, index)
        path.write_bytes(data)
        os.ftruncate(errors, 0)
        forget_peak()
        started, watch.active = time.perf_counter(), True
        kind, why = _try(reader, path)
        watch.active = False
        seconds, peak = time.perf_counter() - started, status("VmHWM")
        written = Path("stderr").read_text(errors="replace")
        if index < len(seeds) and kind == "refused":
            kind, why = "failed", "a seed, which is whole, was refused"
        if watch.events or Path(CANARY).exists():
            kind, why = "failed", f"the file was obeyed: {watch.events or CANARY}"
            watch.events = []
            Path(CANARY).unlink(missing_ok=True)
        elif peak > MEMORY:
            kind, why = "failed", f"{peak / 1e9:.1f} GB"
        elif "Traceback" in written:
            kind, why = "failed", f"a traceback on stderr: {written[-160:]!r}"
        line = f"{index} {kind} {peak} {seconds:.3f} {int(bool(written))} {why}".replace("\n", " ")
        os.write(report, line.encode()[:2000] + b"\n")


# --- in the parent


def _start(reader: Reader, seeds: Sequence[bytes], seed: int, indices: range, folder: Path) -> tuple[int, int]:
    """A forked process at work, and the pipe it tells from."""
    receive, report = os.pipe()
    pid = os.fork()
    if pid:
        os.close(report)
        return pid, receive
    try:
        _work(reader, seeds, seed, indices, folder, report)
    except BaseException:
        os.write(report, f"-1 harness {traceback.format_exc()}".replace("\n", " | ").encode()[-3000:] + b"\n")
        os._exit(1)
    os._exit(0)


def _listen(reader: Reader, receive: int, outcome: Outcome, timeout: float) -> tuple[int | None, bool]:
    """Count what the process tells until it ends or is silent for too long: the number left unfinished, and whether silent."""
    begun, rest = None, b""
    while True:
        if not select.select([receive], [], [], timeout)[0]:
            return begun, True
        chunk = os.read(receive, 1 << 16)
        if not chunk:
            return begun, False
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number, kind, *values = line.decode(errors="replace").split(" ", 5)
            if kind == "harness":
                raise RuntimeError(f"the harness itself failed: {line.decode()}")
            if kind == "begin":
                begun = int(number)
                continue
            begun = None
            outcome.tried += 1
            outcome.accepted += kind == "accepted"
            outcome.refused += kind == "refused"
            outcome.peak, outcome.slowest = max(outcome.peak, int(values[0])), max(outcome.slowest, float(values[1]))
            outcome.noisy += values[2] == "1"
            if kind == "failed":
                known = any(beginning in values[3] for beginning in reader.known)
                (outcome.known if known else outcome.failures).append(Failure(int(number), values[3]))


def campaign(reader: Reader, seed: int, count: int, start: int = 0, timeout: float = SECONDS, most: int = 20) -> Outcome:
    """Try the inputs `start` to `count` of a reader; one that died or hung `most` times is not started again."""
    outcome, first = Outcome(reader.name), start
    seeds, began = reader.seeds(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name).resolve()
        while start < count and len(outcome.failures) < most:
            pid, receive = _start(reader, seeds, seed, range(start, count), folder)
            begun, silent = None, True
            try:
                begun, silent = _listen(reader, receive, outcome, timeout)
            finally:
                os.close(receive)
                if silent:
                    os.kill(pid, signal.SIGKILL)
                _, ended = os.waitpid(pid, 0)
            if begun is None and not silent and ended == 0:
                break
            if begun is None and not silent:
                outcome.failures.append(Failure(-1, f"the process died while it read whole files, or between two: status {ended}"))
                break
            if begun is None:
                raise RuntimeError(f"{reader.name}: silent before its first input or between two")
            died = f"killed by signal {os.WTERMSIG(ended)}" if os.WIFSIGNALED(ended) else f"exit code {os.WEXITSTATUS(ended)}"
            outcome.tried += 1
            outcome.failures.append(Failure(begun, f"no answer in {timeout:g} s" if silent else f"the process died: {died}"))
            start = begun + 1
    outcome.seconds = time.perf_counter() - began
    if outcome.tried != count - first and not outcome.failures:
        outcome.failures.append(Failure(-1, f"{outcome.tried} of {count - first} inputs were tried"))
    return outcome


def replay(reader: Reader, seed: int, index: int, keep: Path | None) -> None:
    """Read one input in this process, so that a debugger or a traceback shows what happens."""
    data = make_input(reader, reader.seeds(), seed, index)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        path = (keep or Path(name) / reader.file).resolve()
        path.write_bytes(data)
        os.chdir(name)
        print(f"{len(data)} bytes: {data[:60]!r}")
        try:
            print("accepted:", repr(reader.read(path))[:500])
        except UserError as error:
            print("refused:", error)


def main() -> int:
    import torch

    torch.set_num_threads(1)  # a forked process has no threads but its own
    from fuzz_readers import READERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=[reader.name for reader in READERS], help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, help="read only this input, in this process")
    parser.add_argument("--count", type=int, default=400, help="inputs per reader, fewer for slow ones unless --reader names it")
    parser.add_argument("--keep", type=Path, help="with --index: write the input to this file")
    options = parser.parse_args()
    readers = [reader for reader in READERS if options.reader in (None, reader.name)]
    if options.index is not None:
        if not options.reader:
            parser.error("--index needs --reader")
        replay(readers[0], options.seed, options.index, options.keep)
        return 0
    started, tried, failures = time.perf_counter(), 0, 0
    for reader in readers:
        outcome = campaign(reader, options.seed, options.count if options.reader else round(options.count * reader.share))
        tried, failures = tried + outcome.tried, failures + len(outcome.failures)
        print(outcome.text(), flush=True)
    print(f"{tried} inputs in {time.perf_counter() - started:.0f} s, {failures} failures (seed {options.seed})")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
