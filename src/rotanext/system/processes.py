"""The processes of one training, and what they agree upon: one device each, joined by torchrun or `accelerate launch`."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor

from rotanext.errors import UserError
from rotanext.system.devices import find_device

T = TypeVar("T")
_PATIENCE = timedelta(hours=2)  # how long a process waits for one that still reads, saves or validates
_LOST = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Timed out waiting")


class Processes:
    """This process among those of a training; alone, everything here is free of cost.

    Decisions go through a gloo group of their own, on the CPU: it notices at once when a process has died, and its waiting is
    bounded by `_PATIENCE`, while the gradients' group (NCCL on GPUs) never waits for anything but gradients.
    """

    def __init__(self, device: str, precision: str) -> None:
        """Join the others; raises UserError where device, precision and number of processes do not go together."""
        self.accelerator = _accelerator(device, precision)
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self._talk: Any = dist.new_group(backend="gloo", timeout=_PATIENCE) if self.count > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """This process's own."""
        device: torch.device = self.accelerator.device
        return torch.device("cpu") if device.type == "cpu" else device  # accelerate numbers CPUs, too

    def gather(self, item: Any) -> list[Any]:
        """Every process's item, in order, on every process; anything that pickles."""
        if self._talk is None:
            return [item]
        items: list[Any] = [None] * self.count
        dist.all_gather_object(items, item, group=self._talk)
        return items

    def gather_on_main(self, item: Any) -> list[Any]:
        """Every process's item, in order, on the main process; nothing on the others."""
        if self._talk is None:
            return [item]
        items: list[Any] | None = [None] * self.count if self.is_main else None
        dist.gather_object(item, items, dst=0, group=self._talk)
        return items or []

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives in the main process, on every process; anything that pickles. Its UserError is raised on all, too."""
        if self._talk is None:
            return make()
        sent: list[Any] = [None]
        if self.is_main:
            try:
                sent = [(make(), None)]
            except UserError as error:
                sent = [(None, str(error))]
        dist.broadcast_object_list(sent, src=0, group=self._talk)
        made, message = sent[0]
        if message is not None:
            raise UserError(message)
        result: T = made
        return result

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number's sum over the processes."""
        if self._talk is None:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(values, group=self._talk)
        return values.tolist()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes of a tensor on their devices."""
        return self.accelerator.reduce(values, "mean") if self.count > 1 else values

    @contextmanager
    def together(self) -> Iterator[None]:
        """What goes wrong in here (a UserError) in one process ends all of them, with one message; see `fail`."""
        error = None
        try:
            yield
        except UserError as caught:
            error = caught
        messages = [text for text in self.gather(error and str(error)) if text]
        if self.count == 1 and error:
            raise error
        if messages:
            self.fail(messages[0])

    def fail(self, message: str) -> NoReturn:
        """End, as all processes have agreed to: the main one with a UserError, the others without a word."""
        if self.is_main:
            raise UserError(message)
        raise SystemExit(2)

    def prepare(self, *parts: Any) -> Any:
        """accelerate's `prepare`: the network in DDP where there are several processes, the optimiser with its scaler."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # its new name is unknown to torch < 2.15
            return self.accelerator.prepare(*parts)

    def leave(self) -> None:
        """Part from the others after the work is done."""
        if self._talk is not None and dist.is_initialized():
            self.gather(None)
            dist.destroy_process_group()


def lost_contact(error: RuntimeError) -> bool:
    """Whether an error of torch says that another process of the training has died or hangs."""
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST)


def _accelerator(device: str, precision: str) -> Accelerator:
    """accelerate's view of a device and a precision; raises UserError where the two do not go together."""
    where, count = find_device(device), int(os.environ.get("WORLD_SIZE", "1"))
    _check_precision(where, precision)
    if count > 1:
        _check_devices(where)
        if "MASTER_ADDR" not in os.environ:  # of which accelerate would say that the precision does not suit the device
            _refuse_half_launch(count)
    elif where.type == "cuda" and where.index is not None:
        torch.cuda.set_device(where)  # accelerate takes the current one
    AcceleratorState._reset_state(True)  # a second training in one process may ask for another precision
    # Sharding is done by training/sharding.py, the same on every device; accelerate knows it on GPUs only, by a switch of its own.
    switch = os.environ.pop("ACCELERATE_USE_FSDP", None)
    try:
        accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            cpu=where.type == "cpu",
            # The buffers are constants or kept equal by SyncBatchNorm; every parameter has a gradient in every step.
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=_PATIENCE if where.type == "cpu" else timedelta(minutes=15)),
            ],
        )
    except ValueError as error:
        raise UserError(f"train.precision = '{precision}' does not work on {where} ({error}). Use bf16 or fp32.") from None
    finally:
        if switch is not None:
            os.environ["ACCELERATE_USE_FSDP"] = switch
    if accelerator.num_processes != count:
        _refuse_half_launch(count)
    return accelerator


def _refuse_half_launch(count: int) -> NoReturn:
    raise UserError(
        f"WORLD_SIZE is {count}, but the processes do not know each other (RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are "
        "needed, too). Start them by torchrun or accelerate launch."
    )


def _check_precision(where: torch.device, precision: str) -> None:
    """Raise UserError for fp16 on a CPU: accelerate would compute in fp32 there, and not say so."""
    if precision == "fp16" and where.type == "cpu":
        raise UserError("train.precision is fp16, which trains on GPUs only; this is a CPU. Use train.precision=bf16, or fp32.")


def _check_devices(where: torch.device) -> None:
    """Raise UserError where several processes cannot have a device each."""
    if where.index is not None:
        raise UserError(f"--device is {where}, but each of several processes takes a device of its own: say --device {where.type}")
    if where.type == "cpu":
        return
    if where.type not in ("cuda", "xpu"):
        raise UserError(f"several processes cannot train on {where.type}; start one, or give --device cpu")
    here, found = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.get_device_module(where).device_count()
    if here > found:
        raise UserError(f"{here} processes on a machine with {found} devices ({where.type}); start one for each (--nproc-per-node)")
