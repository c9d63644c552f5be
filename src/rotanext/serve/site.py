"""The files of the page, which come with the package."""

from importlib.resources import files

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_files() -> dict[str, tuple[bytes, str]]:
    """Content and media type of each file by its name."""
    found = {}
    for file in (files("rotanext.serve") / "page").iterdir():
        kind = _KINDS.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            found[file.name] = (file.read_bytes(), kind)
    return found
