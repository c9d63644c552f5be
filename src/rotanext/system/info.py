"""What this installation is and runs on."""

import os
import platform
from typing import Any

import torch

from rotanext import __version__
from rotanext.boxes import CONVENTION
from rotanext.ops import implementation
from rotanext.ops.cpu import warm_up
from rotanext.system.machine import memory, package_version, processor

_PACKAGES = (
    "torch", "torchvision", "timm", "numpy", "numba", "opencv-python-headless", "opencv-python", "pydantic", "typer", "rich",
    "accelerate", "matplotlib", "tensorboard", "pillow", "safetensors", "huggingface-hub", "triton",
    "rasterio", "pyproj", "shapely", "pyogrio", "geopandas", "pyarrow", "ray", "onnx", "onnxruntime", "openvino", "fastapi",
)  # fmt: skip
# Environment variables that change what is computed; their values hold no paths.
_SETTINGS = ("ROTANEXT_OPS", "ROTANEXT_NUMBA_CACHE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET", "WORLD_SIZE")


def environment() -> dict[str, str]:
    """Versions, devices and active kernels, by name."""
    packages = ("torch", "torchvision", "timm", "numpy", "numba", "opencv-python-headless", "accelerate")
    kernels = ", ".join(f"{language} on {name}" for name, language in active_kernels().items())
    devices = [f"cpu ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"]
    devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return {
        "rotanext": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: package_version(name) or "not installed under this name" for name in packages},
        "devices": ", ".join(devices),
        "rotated ops": f"{kernels}, ready in {warm_up():.1f} s",
        "boxes": CONVENTION,
    }


def bug_report() -> dict[str, Any]:
    """What helps to find a fault, as plain data: versions, hardware, active kernels; no names of users or machines, no paths."""
    versions = {name: package_version(name) for name in _PACKAGES}
    return {
        "rotanext": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: value for name, value in versions.items() if value},
        "cpu": _cpu(),
        "accelerators": [_cuda(i) for i in range(torch.cuda.device_count())] + ["mps"] * torch.backends.mps.is_available(),
        "cuda": {"torch": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "hip": torch.version.hip},
        "kernels": active_kernels(),
        "kernels_ready_seconds": round(warm_up(), 2),
        "settings": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
        "box_convention": CONVENTION,
    }


def _cpu() -> dict[str, Any]:
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return {"model": processor(), "cores": os.cpu_count(), "instructions": capability, "threads": threads, "memory_gib": memory()}


def _cuda(index: int) -> dict[str, Any]:
    device = torch.cuda.get_device_properties(index)
    memory = round(device.total_memory / 2**30, 1)
    return {"name": device.name, "capability": f"{device.major}.{device.minor}", "memory_gib": memory}


def active_kernels() -> dict[str, str]:
    """What serves each kind of device there is."""
    written_in = {"cpu": "numba", "cuda": "triton", "reference": "readable torch"}
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {name: written_in[implementation(torch.device(name)).__name__.rpartition(".")[2]] for name in devices}
