"""What this installation is and runs on."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from rotanext import __version__
from rotanext.boxes import CONVENTION
from rotanext.ops import implementation
from rotanext.ops.cpu import warm_up


def environment() -> dict[str, str]:
    """Versions, devices and active kernels, by name."""
    packages = ("torch", "torchvision", "timm", "numpy", "numba", "opencv-python-headless", "accelerate")
    devices = [f"cpu ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"]
    devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return {
        "rotanext": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: _version(name) for name in packages},
        "devices": ", ".join(devices),
        "rotated ops": f"{_kernels()}, ready in {warm_up():.1f} s",
        "boxes": CONVENTION,
    }


def _kernels() -> str:
    """What serves each kind of device there is."""
    written_in = {"cpu": "numba", "cuda": "triton", "reference": "readable torch"}
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    modules = {name: implementation(torch.device(name)).__name__.rpartition(".")[2] for name in devices}
    return ", ".join(f"{written_in[module]} on {name}" for name, module in modules.items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # such as opencv-python in the place of opencv-python-headless
        return "not installed under this name"
