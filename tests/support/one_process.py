"""Runs `rotanext` commands and programs one after another in one process, so that only the first waits for imports.

For tests/docs/test_extending.py. A line of JSON in, {"arguments": [...]} or {"program": TEXT}; a line of JSON out: exit code, and
what was written to both streams.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any


def run(request: dict[str, Any]) -> int:
    """The exit code, as a shell would see it."""
    from rotanext.cli.main import main

    try:
        if "program" in request:
            exec(compile(request["program"], "program", "exec"), {"__name__": "program"})
        else:
            sys.argv = ["rotanext", *request["arguments"]]
            main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries write by themselves is no answer
    for line in sys.stdin:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = run(json.loads(line))
        print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
