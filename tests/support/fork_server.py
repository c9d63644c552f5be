"""Runs `rotanext` commands in forked children, so that a start costs no imports; for tests/training/test_failures.py.

A line of JSON in, {"arguments": [...], "log": FILE, "limit": BYTES A FILE or null}, and the child's id out; then any line in, and
its exit status out. Until that is asked for an ended child stays a zombie, so that its id cannot become another process's.
"""

import json
import os
import resource
import sys
from pathlib import Path

import torch.utils.tensorboard  # noqa: F401 (a second to import)
from torch import cat, tensor

import rotanext.training.train  # noqa: F401
from rotanext.cli import main as cli
from rotanext.heads.anchors import V0
from rotanext.ops import assign_anchors


def warm_up() -> None:
    """Load the kernels that a training needs; no thread must run here, as none is in a forked child."""
    sizes = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    assign_anchors(cat(V0.grid(sizes)), tensor([[20.0, 20.0, 30.0, 10.0, 0.1]]), 0.5, 0.4, V0.layout(sizes))


def run(request: dict) -> None:
    """The child's part: the command, as a shell would start it."""
    handle = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if request["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    sys.argv = ["rotanext", *request["arguments"]]
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    warm_up()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread runs already"
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
