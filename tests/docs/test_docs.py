"""Every command, Python block, message and link of the documentation.

Commands of `rotanext` run here, page by page; those that need more than a folder run in test_docs_programs.py. A block that no test
runs says why, in a comment above it: `<!-- not run: REASON -->`. All are parsed.
"""

import ast
import functools
import importlib.util
import json
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from pages import BLOCKS, COMMANDS, PAGES, ROOT, Block, Command, commands_for, fill_sandbox, made_small, words_of, write_checkpoints
from rotanext.cli.main import app
from rotanext.config import keys_of, load_config, recipe_names


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """Our command that words call, through groups of commands, and the words left for it."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def parse_rotanext(words: list[str]) -> None:
    """Fail unless the command line takes these words; of a training, unless its recipe and settings are valid."""
    if words[0].startswith("--"):
        assert words[0] in ("--help", "--install-completion", "--show-completion")
        return
    command, rest = leaf(words)
    if "--help" in rest:
        return
    values = command.make_context(words[0], list(rest)).params
    if words[0] == "train" and values["recipe"] and values["resume"] is None:
        recipe = values["recipe"] if values["recipe"] in recipe_names() else recipe_names()[0]
        assert values["recipe"] in (*recipe_names(), "RECIPE") or values["recipe"].endswith((".toml", ".json"))
        load_config(recipe, list(values["overrides"] or []))


def parse_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(words)
    assert (parsed.module, parsed.training_script) == (True, "rotanext")
    parse_rotanext([word for word in parsed.training_script_args if word not in ("--", "...")])


def parse_accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    parsed = launch_command_parser().parse_args(words[1:])
    assert (words[0], parsed.module, parsed.training_script) == ("launch", True, "rotanext")
    parse_rotanext(parsed.training_script_args)


def parse_make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


def parse_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert words[0] == "install"
    asked = [extra for word in words for extra in re.findall(r"\[([\w,]+)\]", word)]
    assert {name for names in asked for name in names.split(",")} <= set(extras)
    for option, value in pairwise(words):
        assert option != "--constraint" or (ROOT / value).is_file()


def parse_python(words: list[str]) -> None:
    """A script of the repository that knows the options, or `-m` with a module that is there."""
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1])
        return
    source = (ROOT / words[0]).read_text()
    for option in (word for word in words[1:] if word.startswith("--")):
        assert f'"{option}"' in source, f"{words[0]} does not know {option}"


def parse_pytest(words: list[str]) -> None:
    assert all((ROOT / word.partition("::")[0]).exists() for word in words if not word.startswith("-"))


def parse_known(words: list[str]) -> None:
    """Programs that are not ours, and change nothing that could go out of date."""


PARSERS: dict[str, Callable[[list[str]], None]] = {
    "rotanext": parse_rotanext,
    "torchrun": parse_torchrun,
    "accelerate": parse_accelerate,
    "make": parse_make,
    "pip": parse_pip,
    "python": parse_python,
    "python3": parse_python,
    "pytest": parse_pytest,
    ".": parse_known,
    "pre-commit": parse_known,
    "git": parse_known,
    "cd": parse_known,
    "apt-get": parse_known,
    "curl": parse_known,
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_command_is_valid(command: Command) -> None:
    words = words_of(command.text)
    assert words[0] in PARSERS, f"nobody knows {words[0]}; mark the block as ```text if it holds no commands"
    PARSERS[words[0]](words[1:])


def test_every_command_is_run_or_says_why_not() -> None:
    assert len(COMMANDS) > 80
    assert not [command.name for command in COMMANDS if not command.runner], "nobody runs these: <!-- not run: REASON -->"


@pytest.fixture
def sandbox(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages' commands name."""
    fill_sandbox(tmp_path, tiny_run / "last.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = sorted({command.page for command in commands_for("page")})
SLOW = ("README.md", "docs/export.md")  # the demo; several exports


@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in RUN])
def test_the_commands_of_a_page_run(page: str, sandbox: Path, cli: Callable, tiny_run: Path) -> None:
    commands = [command.text for command in commands_for("page") if command.page == page]
    write_checkpoints(sandbox, commands)
    if any(c.startswith("rotanext labels convert yolodata mydata ") for c in commands):  # these pages make it
        shutil.rmtree(sandbox / "mydata")
    trained = {word for c in commands for word in words_of(c) if c.startswith("rotanext train") and word.startswith("runs/")}
    for name in ("mine", "tiles"):  # weights that another page made
        if f"runs/{name}" not in trained:
            (sandbox / f"runs/{name}").mkdir(parents=True)
            for file in ("last.safetensors", "best.safetensors"):
                (sandbox / f"runs/{name}" / file).write_bytes((tiny_run / "last.safetensors").read_bytes())
    for command in commands:
        words = made_small(words_of(command)[1:])
        done = cli(*words)
        assert done.code == 0, f"{command}\n{done.err}"
        if words[0] == "predict":
            assert list((sandbox / (words[words.index("--out") + 1] if "--out" in words else "runs/predict")).iterdir())


PYTHON = [block for block in BLOCKS if block.kind == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=[f"{b.page}:{b.line}" for b in PYTHON])
def test_python_blocks_run(block: Block, sandbox: Path, tiny_run: Path) -> None:
    (sandbox / "runs/mine").mkdir()
    (sandbox / "runs/mine/best.safetensors").write_bytes((tiny_run / "last.safetensors").read_bytes())
    exec(compile(block.body, f"{block.page}:{block.line}", "exec"), {"__name__": "block"})


# The pages say what the program says.


@functools.cache
def strings_of_source() -> list[str]:
    """Every string in the source, the constant parts of f-strings one by one; adjacent ones are joined by the parser."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


MESSAGES = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES)
def test_quoted_messages_exist(message: str) -> None:
    parts = [part.strip() for part in message.split("…") if len(part.strip()) > 3]
    assert parts
    for part in parts:
        pieces = part.split("%s")
        assert any(all(piece in text for piece in pieces) for text in strings_of_source()), f"nothing in src says {part!r}"


def test_the_message_check_can_fail() -> None:
    assert len(MESSAGES) > 30
    with pytest.raises(AssertionError):
        test_quoted_messages_exist("a message that nobody ever says")


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "log.md" and p.name != "CHANGELOG.md"], ids=lambda p: p.name)
def test_settings_that_pages_name_exist(page: Path) -> None:
    sections = "|".join({key.partition(".")[0] for key in keys_of() if "." in key})
    text = page.read_text()
    if page.name == "from-mmrotate.md":  # the left column holds MMRotate's names
        text = "\n".join(line.split("|")[2] for line in text.splitlines() if line.count("|") == 3)
    named = set(re.findall(rf"`'?((?:{sections})\.[a-z_0-9]+)(?==|`)", text))
    assert named <= {*keys_of(), "model.py", "model.names", "data.yaml", "train.slurm"}


def test_every_setting_has_its_meaning() -> None:
    table = hooks().settings_table()
    missing = [key for key in keys_of() if "." in key and f"| `{key}` |" not in table]
    assert not missing


def test_the_readme_names_every_folder() -> None:
    table = (ROOT / "README.md").read_text().split("## Files")[1].split("## ")[0]
    rows = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    package = ROOT / "src/rotanext"
    folders = {path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(re.findall(r"`(\w+)/`", rows)) == folders
    assert all((package / name).is_file() for name in re.findall(r"`(\w+\.py)`", rows))


def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drawings_are_up_to_date(tmp_path: Path) -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import drawings, pathlib; drawings.main(pathlib.Path(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", script, ROOT / "docs", tmp_path], check=True)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 6
    for path in drawn:
        assert path.read_text() == (ROOT / "docs/images" / path.name).read_text(), f"run python docs/drawings.py: {path.name}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; a warning is an error."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_is_built_whole(site: Path) -> None:
    for name in ("index", "api", "troubleshooting", "notebooks/first_detection", "benchmarks/index", "labels", "serve", "export"):
        assert (site / f"{name}.html").stat().st_size > 2000
    assert "Where tiles overlap, boxes of one class compete" in (site / "api.html").read_text().replace("\n", " ").replace(
        "  ", " "
    )
    assert "train.warmup_ratio" in (site / "settings.html").read_text()
    assert (site / "notebooks/first_detection.ipynb").is_file()
    assert (site / "examples/train.slurm").is_file()


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|srcset|data)=[\"']?(?:https?:)?//[^>]*>"
    )
    links = re.compile(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*href=[\"']?(?:https?:)?//[^>]*>")
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not loads.search(text), page
        assert not links.search(text), page
        assert 'class="mermaid"' not in text, "mermaid would be fetched"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet


NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "committed without results"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert any(cell.get("outputs") for cell in notebook.cells)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60, "seconds of one core"


def test_notebooks_are_there() -> None:
    assert len(NOTEBOOKS) == 2
    assert all(json.loads(path.read_text())["nbformat"] == 4 for path in NOTEBOOKS)
