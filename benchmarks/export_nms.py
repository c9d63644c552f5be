"""Rotated NMS for exported networks: our operator in the runtime wrapper against standard ONNX operators within the graph.

python benchmarks/export_nms.py [--counts 100,300,1000]

The graph holds only the exact IoU of all pairs, by the readable operator's formula in float64. The greedy loop after it is left
out, which favours the graph. Far pairs are not sorted out first (a graph could, by NonZero), which favours the wrapper, as it does.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from measure import save, spelt
from torch import Tensor, nn

from rotanext.ops import reference, rotated_nms

RUNS = 5


class Pairs(nn.Module):
    """IoU of every box with every other."""

    def forward(self, boxes: Tensor) -> Tensor:
        count = boxes.shape[0]
        a = boxes[:, None].expand(count, count, 5).reshape(-1, 5)
        b = boxes[None].expand(count, count, 5).reshape(-1, 5)
        return reference.rotated_iou_pairs(a, b)


def median(call: Callable[[], object]) -> float:
    """Seconds of a call, the median of some after the first."""
    call()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", default="100,300,1000")
    rows = []
    for count in map(int, parser.parse_args().counts.split(",")):
        torch.manual_seed(0)
        boxes = torch.rand(count, 5) * torch.tensor([500.0, 500, 40, 20, 3]) + torch.tensor([0.0, 0, 20, 5, -1.5])
        scores, labels = torch.rand(count), torch.zeros(count, dtype=torch.int64)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(Pairs(), (boxes,), Path(folder) / "iou.onnx", dynamo=True, input_names=["boxes"], verbose=False)
            session = onnxruntime.InferenceSession(Path(folder) / "iou.onnx")
        within = median(lambda: session.run(None, {"boxes": boxes.numpy()}))  # noqa: B023
        wrapper = median(lambda: rotated_nms(boxes, scores, labels, 0.1))  # noqa: B023
        rows.append([str(count), spelt(wrapper), spelt(within), f"{within / wrapper:.0f}"])
    title = "Rotated NMS of N boxes of one class: in the runtime wrapper, and the IoU it needs within an ONNX graph"
    save("export-nms", title, ["boxes", "wrapper, all of NMS", "graph, IoU alone", "ratio"], rows)


if __name__ == "__main__":
    main()
