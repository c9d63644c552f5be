"""What an exported file says of itself: written, read back, and refused where it is of another kind."""

import json
from pathlib import Path

import pytest

from rotanext import __version__
from rotanext.boxes import CONVENTION
from rotanext.config import load_config
from rotanext.errors import UserError
from rotanext.export.metadata import INPUT, INPUT_1, Metadata, read_metadata

HERE = Path("m.onnx")
METADATA = Metadata(("plane", "ship"), load_config("small"), "fp16")


def test_what_is_written_reads_back() -> None:
    texts = METADATA.to_texts()
    assert all(isinstance(text, str) and name.startswith("rotanext.") for name, text in texts.items())
    found = read_metadata(texts | {"author": "somebody"}, HERE)
    assert (found.class_names, found.config, found.precision) == (METADATA.class_names, METADATA.config, "fp16")
    assert (found.version, found.format, found.input) == (__version__, "2", INPUT)
    assert texts["rotanext.box_convention"] == CONVENTION


def test_a_file_of_format_1_has_its_input_under_the_old_name() -> None:
    found = read_metadata(METADATA.to_texts() | {"rotanext.format": "1"}, HERE)
    assert (found.format, found.input) == ("1", INPUT_1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "3"}, "found format = '3'; expected '2'"),
        ({"box_convention": "oc"}, "found box_convention = 'oc'"),
        ({"precision": "int4"}, "found precision = 'int4'; expected 'fp32 or fp16 or int8'"),
        ({"class_names": "[]"}, "expected 'a list of names'"),
        ({"class_names": '["a", 3]'}, "expected 'a list of names'"),
        ({"class_names": '["a", ""]'}, "expected 'a list of names'"),
        ({"class_names": '"ab"'}, "expected 'a list of names'"),
        ({"class_names": "{"}, "class_names that cannot be read"),
        ({"config": "[]"}, "expected 'a configuration'"),
        ({"config": "[" * 100_000}, "config that cannot be read"),
        ({"config": json.dumps("x" * 1_000_001)}, "1000003 characters"),
        ({"config": "{}"}, r"m\.onnx \(configuration\): key 'name' is missing"),
    ],
    ids=[
        "format", "convention", "precision", "no names", "a number", "an empty name", "a text", "cut", "no table", "bottomless",
        "too long", "empty",
    ],
)  # fmt: skip
def test_texts_of_another_kind_are_refused(change: dict[str, str], message: str) -> None:
    texts = METADATA.to_texts() | {f"rotanext.{name}": text for name, text in change.items()}
    with pytest.raises(UserError, match=message) as error:
        read_metadata(texts, HERE)
    assert str(error.value).startswith("m.onnx")
    assert len(str(error.value)) < 3500


@pytest.mark.parametrize("name", ["format", "class_names", "box_convention", "precision", "config"])
def test_a_missing_text_is_named(name: str) -> None:
    texts = METADATA.to_texts()
    del texts[f"rotanext.{name}"]
    with pytest.raises(UserError, match=rf"found no rotanext\.{name} in its metadata; expected a file written by rotanext export"):
        read_metadata(texts, HERE)


def test_what_nobody_computes_with_may_be_missing() -> None:
    texts = METADATA.to_texts()
    for name in ("version", "normalisation", "input", "output"):
        del texts[f"rotanext.{name}"]
    assert read_metadata(texts, HERE).version == ""
