"""The network on the CPU by our arrangement of torch, by ONNX Runtime (fp32, int8) and by OpenVINO, each in a process of its own.

python benchmarks/engines.py [--size 1024] [--backbone convnext_tiny]

Each engine's threads wait for work by turning round, which slows the others in one process; so the processes take turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import save, spelt
from torch import Tensor, nn

from rotanext.config import load_config
from rotanext.inference.detector import build_network
from rotanext.models.fast import for_inference
from rotanext.models.network import Network

RECIPE = "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota"
RUNS, ROUNDS = 5, 3
THREADS = torch.get_num_threads()


class Flat(nn.Module):
    """The network's ten maps as one tuple, as graphs have them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, deltas = self.network(images)
        return (*logits, *deltas)


def network(folder: Path, backbone: str) -> Network:
    """The network with the weights in the folder."""
    model = build_network(load_config(RECIPE, ["backbone.weights=", f"backbone.name={backbone}"]), 15).eval()
    if (folder / "weights.pt").exists():
        model.load_state_dict(torch.load(folder / "weights.pt"))
    return model


def prepare(folder: Path, backbone: str, size: int) -> None:
    """Weights, input, the plain network's output, and the graphs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    torch.manual_seed(0)
    model = network(folder, backbone)
    for values in model.head.parameters():
        nn.init.normal_(values, std=0.03)  # so that outputs differ
    torch.save(model.state_dict(), folder / "weights.pt")
    x = torch.randn(1, 3, size, size)
    np.save(folder / "x.npy", x.numpy())
    with torch.no_grad():
        np.savez(folder / "expected.npz", *(y.numpy() for y in Flat(model)(x)))
    plain = Flat(for_inference(model, winograd=False)).eval()
    torch.onnx.export(plain, (x,), folder / "fp32.onnx", dynamo=True, input_names=["images"], external_data=False, verbose=False)

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"images": x.numpy()}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    quantize_static(
        folder / "fp32.onnx",
        folder / "int8.onnx",
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
    )


def engine(name: str, folder: Path, backbone: str) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A function from images to the ten maps."""
    if name == "ours":
        flat = Flat(for_inference(network(folder, backbone)))

        def ours(x: np.ndarray) -> list[np.ndarray]:
            with torch.inference_mode():
                return [y.numpy() for y in flat(torch.from_numpy(x).to(memory_format=torch.channels_last))]

        return ours
    graph = folder / f"{name.split()[-1]}.onnx"
    if name.startswith("OpenVINO"):
        import openvino

        core = openvino.Core()
        options = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(core.read_model(graph), "CPU", options).create_infer_request()

        def by_openvino(x: np.ndarray) -> list[np.ndarray]:
            maps = request.infer({0: x})
            return [maps[k] for k in range(10)]

        return by_openvino
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(graph, session_options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"images": x})


def measure(name: str, folder: Path, backbone: str) -> None:
    """Print seconds of each run and the largest difference from the plain network, as JSON."""
    run, x = engine(name, folder, backbone), np.load(folder / "x.npy")
    expected = list(np.load(folder / "expected.npz").values())
    difference = max(float(np.abs(a - b).max()) for a, b in zip(run(x), expected, strict=True))
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run(x)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "difference": difference, "range": max(float(np.abs(b).max()) for b in expected)}))


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--backbone", default="convnext_tiny")
    parser.add_argument("--engine")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.engine:
        measure(options.engine, options.folder, options.backbone)
        return
    names = ["ours", "ONNX Runtime fp32", "OpenVINO fp32", "ONNX Runtime int8", "OpenVINO int8"]
    found: dict[str, list[dict]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.backbone, options.size)
        for turn in range(ROUNDS):
            for name in names[turn:] + names[:turn]:
                command = [sys.executable, __file__, "--engine", name, "--folder", folder, "--backbone", options.backbone]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    failed[name] = (done.stderr.strip().splitlines() or ["no message"])[-1]
                else:
                    found[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {name: statistics.median(s for one in runs for s in one["seconds"]) for name, runs in found.items() if runs}
    rows = [
        [
            name,
            spelt(medians[name]),
            f"{medians[name] / medians['ours']:.2f}",
            f"{runs[0]['difference']:.2g} of {runs[0]['range']:.3g}",
        ]
        for name, runs in found.items()
        if runs
    ]
    rows += [[name, "failed", "", reason] for name, reason in failed.items()]
    title = f"{options.backbone} rotated RetinaNet, one image of {options.size} x {options.size}, engines on the CPU"
    note = "int8: every convolution and matrix product, calibrated on the one random image; for its speed, not its accuracy."
    save("engines-cpu", title, ["engine", "median", "of ours", "largest difference from the plain network"], rows, note)


if __name__ == "__main__":
    main()
