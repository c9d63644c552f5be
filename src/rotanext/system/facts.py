"""What is known of this installation and machine: for `rotanext info`, bug reports, the records of runs, and benchmarks."""

import json
import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import torch

from rotanext import __version__
from rotanext.boxes import CONVENTION
from rotanext.ops import implementation
from rotanext.ops.cpu import warm_up

# Packages whose version changes figures; every record of a run names them.
_COMPUTING = ("torch", "torchvision", "timm", "numpy", "numba", "opencv-python-headless", "accelerate")
_PACKAGES = (
    "torch", "torchvision", "timm", "numpy", "numba", "opencv-python-headless", "opencv-python", "pydantic", "typer", "rich",
    "accelerate", "matplotlib", "tensorboard", "pillow", "safetensors", "huggingface-hub", "triton",
    "rasterio", "pyproj", "shapely", "pyogrio", "geopandas", "pyarrow", "ray", "onnx", "onnxruntime", "openvino", "fastapi",
)  # fmt: skip
# Environment variables that change what is computed; their values hold no paths.
_SETTINGS = ("ROTANEXT_OPS", "ROTANEXT_NUMBA_CACHE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET", "WORLD_SIZE")


def environment() -> dict[str, str]:
    """Versions, devices and active kernels, by name: a line each of `rotanext info`."""
    kernels = ", ".join(f"{language} on {name}" for name, language in active_kernels().items())
    devices = [f"cpu ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"]
    devices += [f"cuda:{index} ({name})" for index, name in enumerate(gpus())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return {
        **_platform(),
        **{name: package_version(name) or "not installed under this name" for name in _COMPUTING},
        "devices": ", ".join(devices),
        "rotated ops": f"{kernels}, ready in {warm_up():.1f} s",
        "boxes": CONVENTION,
    }


def bug_report() -> dict[str, Any]:
    """What helps to find a fault, as plain data: versions, hardware, active kernels; no names of users or machines, no paths."""
    versions = {name: package_version(name) for name in _PACKAGES}
    return {
        **_platform(),
        "packages": {name: value for name, value in versions.items() if value},
        "cpu": _cpu(),
        "accelerators": [_cuda(i) for i in range(torch.cuda.device_count())] + ["mps"] * torch.backends.mps.is_available(),
        "cuda": {"torch": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "hip": torch.version.hip},
        "kernels": active_kernels(),
        "kernels_ready_seconds": round(warm_up(), 2),
        "settings": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
        "box_convention": CONVENTION,
    }


def provenance(device: torch.device | str | None = None) -> dict[str, str]:
    """Where results come from: date, versions, commit and hardware by name; `device` is the one that computed.

    Facts that are not known are left out.
    """
    facts = {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        "rotanext": __version__,
        "commit": commit() or "not known (installed from a package)",
        **_platform(),
        "processor": processor(),
        "cores": str(os.cpu_count() or ""),
        "memory": f"{size:.0f} GiB" if (size := memory()) else "",
        "GPUs": ", ".join(gpus()) or "none",
        "CUDA": str(torch.version.cuda or "") if torch.cuda.is_available() else "",
        "computed on": f"{device}, {torch.get_num_threads()} CPU threads" if device else "",
        **{name: package_version(name) or "" for name in _COMPUTING},
    }
    return {name: value for name, value in facts.items() if value}


def hardware() -> str:
    """One line for a table of timings: processor, torch's threads, and the GPU where there is one."""
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {torch.get_num_threads()} threads{gpu}"


def processor() -> str:
    """The processor's model, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory() -> float | None:
    """GiB of memory, to one decimal; None where the system does not tell (Windows)."""
    with suppress(ValueError, OSError, AttributeError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


def gpus() -> list[str]:
    """The names of the CUDA devices, in order."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def package_version(name: str) -> str | None:
    """The version of an installed package; None where there is none of this name."""
    try:
        return version(name)
    except PackageNotFoundError:  # such as opencv-python in the place of opencv-python-headless
        return None


def active_kernels() -> dict[str, str]:
    """What serves each kind of device there is."""
    written_in = {"cpu": "numba", "cuda": "triton", "reference": "readable torch"}
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {name: written_in[implementation(torch.device(name)).__name__.rpartition(".")[2]] for name in devices}


def commit() -> str | None:
    """The commit this package was installed or is run from, with "+ changes" where files differ; None where unknown."""
    with suppress(PackageNotFoundError, ValueError):
        record = json.loads(distribution("rotanext").read_text("direct_url.json") or "{}")
        if found := record.get("vcs_info", {}).get("commit_id"):
            return str(found)
    package = Path(__file__).resolve().parents[1]
    # A virtual environment may lie in somebody else's repository: only one that tracks this file is ours.
    if _git(package, "ls-files", "--error-unmatch", str(Path(__file__).resolve().relative_to(package))) is None:
        return None
    head = _git(package, "rev-parse", "HEAD")
    return head and head + (" + changes" if _git(package, "status", "--porcelain", "--", ".") else "")


def _platform() -> dict[str, str]:
    return {"rotanext": __version__, "python": platform.python_version(), "system": platform.platform()}


def _cpu() -> dict[str, Any]:
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return {"model": processor(), "cores": os.cpu_count(), "instructions": capability, "threads": threads, "memory_gib": memory()}


def _cuda(index: int) -> dict[str, Any]:
    device = torch.cuda.get_device_properties(index)
    size = round(device.total_memory / 2**30, 1)
    return {"name": device.name, "capability": f"{device.major}.{device.minor}", "memory_gib": size}


def _git(folder: Path, *arguments: str) -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    return None
