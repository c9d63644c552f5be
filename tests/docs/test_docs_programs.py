"""The commands of the documentation that need more than a folder: pip, a server and curl, a cluster and an object store, launchers,
real images.

Each runs as it stands, but for what this machine does not have; `SMALLER` and each test say what is put in its place.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pages import ROOT, Command, commands_for, fill_sandbox, made_small, words_of

PIP, DATA, RAY, SERVE, LAUNCHERS = (commands_for(runner) for runner in ("pip", "data", "ray", "serve", "launcher"))
ROTANEXT = (sys.executable, "-m", "rotanext")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch")
# What is said of eight GPUs is done on two processes of a CPU.
WITHOUT_IMAGE = "Add the image or remove the label file"  # three label files of dota-sample: the page says so
SMALLER = {"--nproc-per-node": "2", "--num_processes": "2"}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", **more}


def start(words: list[str], folder: Path, **more: str) -> "subprocess.Popen[str]":
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, cwd=folder, env=environment(**more), text=True, **streams)


def finished(process: "subprocess.Popen[str]", seconds: float = 240) -> str:
    """What it printed; it has to end well."""
    try:
        text = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        pytest.fail(f"still running after {seconds} s: {process.communicate()[0][-3000:]}")
    assert process.returncode == 0, text[-3000:]
    return text


def replaced(words: list[str], others: dict[str, str]) -> list[str]:
    """The words, where one of `others` (an option) comes before: its value instead."""
    return [others.get(before, word) for before, word in zip(["", *words], words, strict=False)]


@pytest.fixture
def sandbox(tmp_path: Path, tiny_run: Path) -> Path:
    fill_sandbox(tmp_path, tiny_run / "last.safetensors")
    return tmp_path


@pytest.mark.parametrize("command", PIP, ids=lambda command: command.name)
def test_what_pip_is_asked_for_can_be_installed(command: Command) -> None:
    """Without the network: names, extras and constraints have to fit what `make install` has installed."""
    words = words_of(command.text)[1:]
    dry = ["--dry-run", "--no-index", "--no-build-isolation", "--quiet", "--quiet", "--report", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words[:1], *dry, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    installed = {item["metadata"]["name"] for item in json.loads(done.stdout)["install"]}
    assert installed <= {"rotanext"}, "make install does not install all that the pages' commands want"


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({command.page for command in DATA}))
def test_commands_on_real_images(page: str, shared: Path, tmp_path: Path) -> None:
    """Trainings are an epoch of a small network on small images."""
    for command in (command for command in DATA if command.page == page):
        words = [word.replace("DATA/", f"{shared / 'data'}/") for word in words_of(command.text)[1:]]
        if words[0] == "train":
            words = made_small(words)
        done = subprocess.run([*ROTANEXT, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == (1 if WITHOUT_IMAGE in done.stderr else 0), (command.text, done.stderr[-3000:])


# --- a server


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.slow
def test_the_server_and_what_curl_is_told_to_ask_it(sandbox: Path, free_port: int) -> None:
    """On a free port instead of 8000."""
    assert shutil.which("curl"), "the pages use curl: apt-get install curl"
    (serve,), asked = [c for c in SERVE if "serve" in words_of(c.text)[:2]], [c for c in SERVE if c.text.startswith("curl")]
    assert len(asked) >= 3
    server = start([*ROTANEXT, *words_of(serve.text)[1:], "--port", str(free_port)], sandbox)
    try:
        url = f"http://127.0.0.1:{free_port}"
        for _ in range(1200):
            if server.poll() is not None:
                pytest.fail(f"the server ended: {server.communicate()[0][-3000:]}")
            if subprocess.run(["curl", "-sf", f"{url}/health"], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            pytest.fail("no answer in two minutes")
        for command in asked:
            words = [word.replace("http://127.0.0.1:8000", url) for word in words_of(command.text)]
            done = subprocess.run([*words, "--fail-with-body", "-sS"], cwd=sandbox, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (command.text, done.stdout, done.stderr)
            answer = json.loads(done.stdout)
            assert "detections" in answer or answer["type"] == "FeatureCollection"
    finally:
        server.terminate()
        server.communicate(timeout=60)


# --- a cluster and an object store


@pytest.fixture(scope="module")
def storage() -> Iterator[dict[str, str]]:
    """An S3 server on the loopback instead of the real one, and how s3fs finds it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    yield {"AWS_ENDPOINT_URL_S3": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1", **dict.fromkeys(names, "testing")}
    server.stop()


@pytest.fixture
def machine(storage: dict[str, str]) -> Iterator[str]:
    """The address of a Ray cluster of one machine that says it has four cores."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (storage | environment(RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")).items():
            patch.setenv(name, value)  # workers get the machine's
        few = {"num_cpus": 4, "object_store_memory": 100 << 20, "include_dashboard": False}
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=few)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("command", RAY, ids=lambda command: command.name)
def test_archives(command: Command, sandbox: Path, storage: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """In a bucket of a local S3 server; on a cluster of one machine; with two workers instead of 100; folders in the sandbox."""
    s3fs = pytest.importorskip("s3fs")
    words = words_of(command.text)[1:]
    remote = s3fs.S3FileSystem(key="testing", secret="testing", endpoint_url=storage["AWS_ENDPOINT_URL_S3"])
    weights = sandbox / words[words.index("--weights") + 1]
    weights.parent.mkdir(exist_ok=True)
    shutil.copy(sandbox / "runs/demo/last.safetensors", weights)
    more = dict(storage)
    if words[words.index("--ray") + 1] != "local":
        more["RAY_ADDRESS"] = request.getfixturevalue("machine")
        words = replaced(words, {"--workers": "2"})
        words = [more["RAY_ADDRESS"] if word == "head.node:6379" else word for word in words]
    source, target = words[1], words[words.index("--out") + 1]
    if source.startswith("s3://"):
        if remote.exists("bucket"):
            remote.rm("bucket", recursive=True)
        remote.makedirs("bucket")
        remote.put(str(sandbox / "scene.tif"), source.removesuffix("/") + "/scene.tif")
    elif source.endswith(".txt"):
        (sandbox / source).write_text(f"{sandbox / 'scene.tif'}\n")
    else:
        words[1] = f"{sandbox}{source}"
        (sandbox / "archive/2026").mkdir(parents=True)
        shutil.copy(sandbox / "scene.tif", sandbox / "archive/2026")
    if target.startswith("/"):
        words[words.index("--out") + 1] = target = f"{sandbox}{target}"
    finished(start([*ROTANEXT, *words], sandbox, **more))
    manifest = f"{target}/manifest.parquet"
    with remote.open(manifest) if manifest.startswith("s3://") else Path(manifest).open("rb") as file:
        assert pq.read_table(file)["status"].to_pylist() == ["done"]


# --- launchers


@pytest.mark.slow
@pytest.mark.parametrize("command", LAUNCHERS, ids=lambda command: command.name)
def test_trainings_in_several_processes(command: Command, sandbox: Path, free_port: int) -> None:
    """Two processes for eight GPUs, on the CPU; two launchers on this machine for two machines; the smallest recipe for RECIPE."""
    program, *words = words_of(command.text)
    words = replaced(words, SMALLER)
    words = [re.sub(r"^(machine0):\d+$", f"127.0.0.1:{free_port}", word) for word in words]
    words = ["small" if word == "RECIPE" else word.replace("/shared/", f"{sandbox}/") for word in words]
    (sandbox / "mydata/train").rename(sandbox / "tiles")
    at = words.index("train")
    words = [*words[:at], *made_small(words[at:])]
    launcher = TORCHRUN if program == "torchrun" else ACCELERATE
    if program == "torchrun" and "--nnodes" not in words:
        words = ["--standalone", *words]  # a free port instead of torchrun's usual one
    if program == "accelerate":
        words = ["--main_process_port", str(free_port), *words[1:]]
    machines = 2 if "--nnodes" in words else 1
    if machines == 2:
        words = replaced(words, {"--nproc-per-node": "1"})
    started = [start([*launcher, *words], sandbox) for _ in range(machines)]
    try:
        assert "in 2 processes" in "".join([finished(process) for process in started])
    finally:
        for process in started:  # one that waits for another, which failed
            process.kill()
            process.wait()
    run = Path(words[words.index("--run") + 1])
    assert (sandbox / run / "last.safetensors").is_file()
