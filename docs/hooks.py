"""What MkDocs does not do by itself: benchmarks and notebooks as pages, the table of settings, links that leave docs/."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

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
    """Every key with its meaning (the comment beside it in config.py) and its value in two recipes."""
    recipes = ROOT / "src/rotanext/recipes"
    names = ("small", "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota")
    values = [tomllib.loads((recipes / f"{name}.toml").read_text()) for name in names]
    rows = ["| key | `small` | ConvNeXt-T on DOTA | meaning |", "|---|---|---|---|"]
    section: str | None = None
    for line in (ROOT / "src/rotanext/config.py").read_text().splitlines():
        if heading := re.match(r"class (\w+)Config\(_Section\)", line):
            section = heading[1].lower()
        field = re.match(r"    (\w+): .*?(?:#\s*(.*))?$", line)
        if section and field and field[1] in values[0].get(section, {}):
            shown = [_shown(part[section][field[1]]) for part in values]
            rows.append(f"| `{section}.{field[1]}` | {shown[0]} | {shown[1]} | {(field[2] or '').replace('|', '/')} |")
    return "\n".join(rows)


def _shown(value: Any) -> str:
    return f"`{json.dumps(round(value, 4) if isinstance(value, float) else value)}`"
