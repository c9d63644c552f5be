"""What MkDocs does not do by itself: benchmarks and notebooks as pages, the table of settings, links that leave docs/."""

import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from rotanext.config import Config, sections_of

ROOT = Path(__file__).resolve().parents[1]
LIGHT = re.compile(r"!\[([^\]]*)\]\(images/([\w-]+)-light\.svg\)")  # of such a drawing there is a dark one, too
OUT_OF_DOCS = re.compile(r"\]\((?:\.\./)?(benchmarks|src|tests)/([^)#]*)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from other files."""
    pages = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "benchmarks").rglob("*.md"))}
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook_page(path)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mend links that lead out of docs/, and put the table of settings in its place."""

    def mended(match: re.Match[str]) -> str:
        folder, path, anchor = match.groups()
        target = f"{folder}/{path}"
        if folder == "benchmarks" and files.get_file_from_path(target):
            return f"]({'../' * page.file.src_uri.count('/')}{target}{anchor or ''})"
        return f"](#){{ title='{target}' }}"  # source code: part of the repository, not of these pages

    if page.file.src_uri.startswith("benchmarks/"):
        return markdown
    markdown = re.sub(r"\]\((notebooks/\w+)\.ipynb\)", r"](\1.md)", markdown)  # in the repository there is only the notebook
    markdown = LIGHT.sub(r"![\1](images/\2-light.svg#only-light)\n![\1](images/\2-dark.svg#only-dark)", markdown)
    return OUT_OF_DOCS.sub(mended, markdown).replace("<!-- table of settings -->", settings_table())


def notebook_page(path: Path) -> str:
    """A notebook as a page: its text and code, without results, and the file to download."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join([parts[0], f"[Download this notebook]({path.name}){{ download }}", *parts[1:]]) + "\n"


def settings_table() -> str:
    """Every key with its meaning (the comment beside it in its section's class) and its value in two recipes."""
    recipes = ROOT / "src/rotanext/recipes"
    names = ("small", "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota")
    values = [tomllib.loads((recipes / f"{name}.toml").read_text()) for name in names]
    rows = ["| key | `small` | ConvNeXt-T on DOTA | meaning |", "|---|---|---|---|"]
    for name, info in Config.model_fields.items():
        kinds = {_kind(section): dict(_meanings(section)) for section in sections_of(info.annotation)}
        for key in dict.fromkeys(key for meanings in kinds.values() for key in meanings):
            shown = [_shown(part[name][key]) if key in part[name] else "" for part in values]
            told = {kind: meanings[key] for kind, meanings in kinds.items() if key in meanings}
            if len(told) == len(kinds) and len(set(told.values())) == 1:
                meaning = next(iter(told.values()))
            else:
                meaning = "; ".join(f"`{kind}`: {meaning}" for kind, meaning in told.items())
            rows.append(f"| `{name}.{key}` | {shown[0]} | {shown[1]} | {meaning} |")
    return "\n".join(rows)


def _kind(section: type[BaseModel]) -> str:
    """The kind of a part that a section describes, "" where there is only one."""
    field = section.model_fields.get("kind")
    return get_args(field.annotation)[0] if field else ""


def _meanings(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The keys of a section and the comment beside each."""
    for line in inspect.getsource(section).splitlines():
        if (field := re.match(r"    (\w+): .*?(?:#\s*(.*))?$", line)) and field[1] in section.model_fields:
            yield field[1], (field[2] or "").replace("|", "/")


def _shown(value: Any) -> str:
    return f"`{json.dumps(round(value, 4) if isinstance(value, float) else value)}`"
