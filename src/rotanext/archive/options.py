"""Which machines compute an archive; needs nothing of the extra `ray`."""

from collections.abc import Sequence
from dataclasses import dataclass

from rotanext.errors import UserError


@dataclass(frozen=True)
class ClusterOptions:
    """Which machines compute, and how the work is cut up."""

    address: str = "local"  # or of a cluster that runs: auto, HOST:6379
    workers: int | None = None  # None: one per GPU, or as many as the cores allow
    cores: int | None = None  # of each worker
    chunk: int = 32  # tiles that a worker computes at a time
    device: str = "auto"  # or cpu, cuda; auto: GPUs where the cluster has any
    tries: int = 3  # a chunk that so many workers died with is given up


def cluster_options(
    sources: Sequence[str],
    address: str | None,
    workers: int | None = None,
    cores: int | None = None,
    chunk: int | None = None,
    device: str = ClusterOptions.device,
) -> ClusterOptions | None:
    """The cluster that a command line asks for, or None for prediction in this process (no address).

    Raises UserError where options or sources belong to the other kind of prediction.
    """
    if address is None:
        if workers or cores or chunk:
            raise UserError("--workers, --cores-per-worker and --chunk belong to --ray")
        for source in sources:
            if "://" in source or source.endswith(".txt"):
                raise UserError(f"{source}: addresses and lists of them are read with --ray local (or a cluster's address)")
        return None
    if len(sources) > 1:
        raise UserError(f"--ray takes one source, and not {len(sources)}: put a glob in quotation marks, or write a .txt list")
    return ClusterOptions(address, workers, cores, chunk or ClusterOptions.chunk, device)
