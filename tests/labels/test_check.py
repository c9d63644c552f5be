"""The check of a whole data set: its command, report and exit codes."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from label_files import FAULTS, SOUND, one_image


class _Page(HTMLParser):
    """Counts what a page refers to, and whether its elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "line", "rect"):
            self.stack.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect"):
            assert self.stack.pop() == tag


def test_the_command_and_its_report(tmp_path: Path, cli: Callable) -> None:
    bad = one_image(tmp_path / "bad", SOUND, *(line for line, _ in FAULTS), "50 10 80 10 80 30 50 30 <script>alert(1)</script> 0")
    done = cli("labels", "check", bad, "--out", tmp_path / "report", "--json", "--recipe", "small")
    assert done.code == 1
    told = json.loads(done.out)
    assert told == json.loads((tmp_path / "report/report.json").read_text())
    assert not told["clean"]
    assert told["counts"]["crossed corners"] == {"count": 1, "problem": True}
    text = (tmp_path / "report/report.html").read_text()
    page = _Page()
    page.feed(text)
    assert not page.stack
    own = [address for address in page.addresses if not re.fullmatch(r"#\w+", address)]
    assert own
    assert all(address.startswith("data:image/jpeg;base64,") for address in own)
    assert "<script>" not in text
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"https?://", text)
    for kind in told["counts"]:
        assert kind in text


def test_exit_codes(tmp_path: Path, cli: Callable) -> None:
    sound = one_image(tmp_path / "good", SOUND)
    done = cli("labels", "check", sound)
    assert (done.code, "1 image, 1 object, 1 class: 0 problems" in done.out) == (0, True)
    assert cli("labels", "check", tmp_path / "none").code == 2
    assert cli("labels", "check", sound, "--recipe", "smal").code == 2
    assert cli("labels", "check", sound, "--recipe", "small", "--weights", tmp_path / "x").code == 2
    assert cli("labels", "check", sound, "--weights", tmp_path / "x").code == 2
    assert cli("labels", "check", sound, "--from", "coco").code == 2
    assert cli("labels", "check", sound, "--classes", "dota1.0").code == 0
    refused = cli("labels", "check", sound, "--classes", "auto")
    assert (refused.code, "--classes auto: found a choice for training" in refused.err) == (2, True)
    (tmp_path / "names.txt").write_text("ship\n")
    done = cli("labels", "check", sound, "--classes", tmp_path / "names.txt")
    assert (done.code, "unknown class" in done.out) == (1, True)


def test_a_detector_s_classes_and_anchors(tiny_dataset: Path, tiny_weights: Path, cli: Callable) -> None:
    done = cli("labels", "check", tiny_dataset / "train", "--val", tiny_dataset / "val", "--weights", tiny_weights, "--json")
    assert json.loads(done.out)["priors"]["recipe"] == "demo"
    assert "unknown class" not in json.loads(done.out)["counts"]
