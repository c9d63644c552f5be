"""The files of the page."""

import re
from pathlib import Path

import pytest

from rotanext.serve import site


def test_the_page_has_nothing_of_other_hosts() -> None:
    files = site.page_files()
    assert {"index.html", "style.css", "main.js", "icon.svg"} <= set(files)
    for name, (data, _) in files.items():
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, name
        assert "https://" not in text, name
        assert "style=" not in text or name.endswith(".js"), name


KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def test_each_file_has_its_type_and_its_own_bytes() -> None:
    folder = Path(site.__file__).parent / "page"
    files = site.page_files()
    assert set(files) == {path.name for path in folder.iterdir() if path.suffix[1:] in KINDS}
    for name, (data, kind) in files.items():
        assert (data, kind) == ((folder / name).read_bytes(), KINDS[name.rpartition(".")[2]])


def test_files_of_other_kinds_are_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("index.html", "notes.txt", "app.py", "README", ".js~"):
        (tmp_path / "page").mkdir(exist_ok=True)
        (tmp_path / "page" / name).touch()
    monkeypatch.setattr(site, "files", lambda package: tmp_path)
    assert set(site.page_files()) == {"index.html"}


def test_what_the_page_refers_to_is_there() -> None:
    files = site.page_files()
    scripts = "".join(data.decode() for name, (data, _) in files.items() if name.endswith(".js"))
    named = re.findall(r'(?:src|href)="page/([^"]+)"', files["index.html"][0].decode()) + re.findall(r'from "\./([^"]+)"', scripts)
    assert named
    assert set(named) <= set(files)
