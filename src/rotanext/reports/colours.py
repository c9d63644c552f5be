"""The colours of pages and charts by name, for light ground (and files) and for dark ground."""

# Okabe and Ito's colours (2008), told apart with common colour deficiencies, darker on light ground. 0 to 9 are series, in
# the order in which they are used; ink is text, muted what stands back, grid the lines behind a chart.
LIGHT = {
    "0": "#0b6fb8", "1": "#d9660a", "2": "#0a8f68", "3": "#b8478f", "4": "#8a6d00", "5": "#3a3fb5", "6": "#c0272d", "7": "#177f95",
    "8": "#6b4fa3", "9": "#5c6b2a", "ink": "#1b2430", "muted": "#5b6775", "grid": "#dfe3e8",
}  # fmt: skip
DARK = {
    "0": "#58b0f5", "1": "#ff9d4d", "2": "#35cf9d", "3": "#ee8cc8", "4": "#e6c84b", "5": "#9aa0ff", "6": "#ff7b7f", "7": "#4fd0e6",
    "8": "#c0a4f5", "9": "#b9cb7a", "ink": "#e6eaf0", "muted": "#9aa7b6", "grid": "#2b3440",
}  # fmt: skip
SERIES = 10
GOOD, BAD = "2", "1"


def variables(colours: dict[str, str]) -> str:
    """The colours as variables of a style sheet."""
    return "".join(f"--c-{name}:{value};" for name, value in colours.items())


def classes() -> str:
    """Style sheet rules for shapes in a chart: s-NAME colours the stroke, f-NAME fills; and key-NAME for the marks of a legend."""
    return "".join(
        f".s-{name}{{stroke:var(--c-{name});fill:none}}.f-{name}{{fill:var(--c-{name})}}.key-{name}{{color:var(--c-{name})}}"
        for name in LIGHT
    )
