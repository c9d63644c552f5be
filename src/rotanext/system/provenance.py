"""Where results come from: the commit of this package, the versions beside it, the machine."""

import json
import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch

from rotanext import __version__
from rotanext.system.machine import memory, package_version, processor

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "opencv-python-headless", "accelerate")


def provenance(device: torch.device | str | None = None) -> dict[str, str]:
    """Date, versions, commit and hardware by name; `device` is the one that computed. Unknown facts are left out."""
    facts = {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        "rotanext": __version__,
        "commit": commit() or "not known (installed from a package)",
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": str(os.cpu_count() or ""),
        "memory": f"{size:.0f} GiB" if (size := memory()) else "",
        "GPUs": ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())) or "none",
        "CUDA": str(torch.version.cuda or "") if torch.cuda.is_available() else "",
        "computed on": f"{device}, {torch.get_num_threads()} CPU threads" if device else "",
        **{name: package_version(name) or "" for name in _PACKAGES},
    }
    return {name: value for name, value in facts.items() if value}


def commit() -> str | None:
    """The commit this package was installed or is run from, with "+ changes" where files differ; None where unknown."""
    with suppress(PackageNotFoundError, ValueError):
        record = json.loads(distribution("rotanext").read_text("direct_url.json") or "{}")
        if found := record.get("vcs_info", {}).get("commit_id"):
            return str(found)
    here = Path(__file__).resolve().parent
    # A virtual environment may lie in somebody else's repository: only one that tracks this file is ours.
    if _git(here, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head = _git(here, "rev-parse", "HEAD")
    return head and head + (" + changes" if _git(here, "status", "--porcelain", "--", ".") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    return None
