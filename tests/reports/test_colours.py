"""The colours of pages and charts can be seen on their ground and told apart."""

import pytest

from rotanext.reports.colours import BAD, DARK, GOOD, LIGHT, SERIES, classes, variables


def luminance(colour: str) -> float:
    """Of WCAG 2."""
    values = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, two: str) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("colours", "ground"), [(LIGHT, "#ffffff"), (DARK, "#181e26")], ids=["light", "dark"])
def test_they_are_seen(colours: dict[str, str], ground: str) -> None:
    assert colours.keys() == LIGHT.keys()
    for name, colour in colours.items():
        least = {"ink": 7, "muted": 4.5, "grid": 1.1}.get(name, 3)  # WCAG 2: text, and graphics
        assert contrast(colour, ground) >= least, name
    assert len(set(colours.values())) == len(colours)
    assert {str(k) for k in range(SERIES)} | {GOOD, BAD} <= colours.keys()


def test_the_style_sheet_has_them_all() -> None:
    assert all(f"--c-{name}:{value};" in variables(DARK) for name, value in DARK.items())
    assert all(f".s-{name}{{" in classes() and f".f-{name}{{" in classes() and f".key-{name}{{" in classes() for name in LIGHT)
