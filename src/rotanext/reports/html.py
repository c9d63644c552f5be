"""The bare page of a report: style sheet, headings, tables. Nothing is loaded from anywhere, and there is no script."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from rotanext.reports.charts import Chart, chart_svg
from rotanext.reports.colours import DARK, LIGHT, classes, variables

Section = tuple[str, str, str]  # id, heading, HTML
_STYLE = f"""
:root{{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--accent:#0b63b0;--heat:11,99,176;{variables(LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{--bg:#10141a;--card:#181e26;--accent:#6cb6ff;--heat:44,112,205;{variables(DARK)}}}}}
{classes()}"""
_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--c-ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
header,main,footer{max-width:1160px;margin:0 auto;padding:0 20px}
header{padding-top:36px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:0 0 4px}
h3{font-size:1rem;margin:0 0 6px}
p{margin:4px 0 12px;max-width:75ch}
.muted,figcaption,caption{color:var(--c-muted);font-size:.88rem}
a{color:var(--accent)}
nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:18px 0 0;padding:0;font-size:.92rem}
section{background:var(--card);border:1px solid var(--c-grid);border-radius:12px;padding:22px 24px;margin:20px 0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:12px;margin:22px 0 0;padding:0}
.figures div{background:var(--card);border:1px solid var(--c-grid);border-radius:12px;padding:12px 16px}
.figures dt{color:var(--c-muted);font-size:.84rem}
.figures dd{margin:0;font-size:1.65rem;font-weight:650;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.figures small{display:block;color:var(--c-muted);font-size:.78rem;font-weight:400;letter-spacing:0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:24px 32px;margin-top:14px}
figure{margin:0;min-width:0}
svg{display:block;width:100%;height:auto}
.line:hover path{stroke-width:4.5;opacity:1}
.bar:hover{opacity:.75}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:8px 0 0;padding:0;font-size:.86rem}
.legend li{overflow-wrap:anywhere}
.legend i{display:inline-block;width:16px;border-top:4px solid;margin-right:6px;vertical-align:middle}
.legend i.thick{border-top-width:5px}.legend i.dashed{border-top-style:dashed}
.legend i.bar{width:12px;border-top-width:12px;border-radius:2px}
.scroll{overflow-x:auto;margin-top:14px}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:min(100%,460px)}
caption{text-align:left;padding-bottom:6px}
caption span{position:sticky;left:0;display:inline-block;max-width:min(75ch,calc(100vw - 64px))}
th,td{padding:5px 12px;text-align:right;border-bottom:1px solid var(--c-grid);vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:0}
th{font-weight:600}
tbody th{font-weight:400;overflow-wrap:anywhere;min-width:7em}
tr.total>*{font-weight:650}
.pair table{min-width:0;font-size:.85rem}
.pair th,.pair td{padding-left:6px;padding-right:6px}
.pair tr>:first-child{padding-left:0}
table.plain td{text-align:left;overflow-wrap:anywhere}
table.matrix{border-collapse:separate;border-spacing:2px;min-width:0}
.matrix td,.matrix thead th{padding:5px 6px;text-align:center;border:0;border-radius:4px;min-width:3.1em}
.matrix thead th{vertical-align:bottom;font-size:.82rem;font-weight:400;overflow-wrap:anywhere;min-width:5.4em;width:6.4em}
.matrix.many thead th{min-width:0;writing-mode:vertical-rl;text-align:left;width:auto;padding-left:0}
.matrix tbody th{border:0;text-align:right;vertical-align:middle;padding-right:8px}
.matrix td:hover{outline:2px solid var(--c-ink)}
.matrix td.strong{color:#fff}
.matrix.many td{font-size:.82rem;padding:3px}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.matrix small{display:block;opacity:.8;font-size:.74rem}
.matrix .none{background:none}
.crops{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:16px;list-style:none;margin:14px 0 0;padding:0}
.crops img,.crops .noimage{display:block;width:100%;aspect-ratio:1;border-radius:8px;background:var(--c-grid)}
.crops img.whole{aspect-ratio:auto}
.crops .noimage{display:grid;place-items:center;color:var(--c-muted);font-size:.84rem;text-align:center;padding:8px}
figcaption{margin-top:6px}
.crops figcaption{font-size:.82rem;line-height:1.4;overflow-wrap:anywhere;margin-top:6px}
.crops b{color:var(--c-ink)}
.crops .muted{font-size:inherit}
details{margin-top:14px}
summary{cursor:pointer;font-weight:600}
.key{display:inline-block;width:12px;height:12px;border:3px solid;border-radius:2px;vertical-align:-1px;margin-right:4px}
footer{padding-bottom:48px}
@media (max-width:600px){header,main,footer{padding-left:12px;padding-right:12px}section{padding:16px 14px}h1{font-size:1.5rem}
.crops{grid-template-columns:repeat(2,minmax(0,1fr));gap:12px}svg text{font-size:14px}
th,td{padding:5px 8px}.figures{grid-template-columns:repeat(2,1fr)}.figures dd{font-size:1.4rem}}
@media print{body{background:#fff}section{break-inside:avoid-page}}
"""


def whole_page(title: str, head: str, sections: Iterable[Section], foot: str) -> str:
    """The page from finished parts: `head` and `foot` are HTML, headings are text."""
    parts = list(sections)
    links = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in parts)
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{escape(heading)}</h2>{html}</section>\n'
        for name, heading, html in parts
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="generator" content="rotanext">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}{_RULES}</style></head>\n<body><header>{head}\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav></header>\n<main>{body}</main>\n<footer>{foot}</footer></body></html>\n'
    )


def cards(figures: Iterable[tuple[str, str, str]]) -> str:
    """Headline figures: (name, value, small print), all as text."""
    items = (
        f"<div><dt>{escape(n)}</dt><dd>{escape(v)}{f'<small>{escape(s)}</small>' if s else ''}</dd></div>" for n, v, s in figures
    )
    return f'<dl class="figures">{"".join(items)}</dl>'


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], total: Sequence[str] | None = None) -> str:
    """A table of text; the first cell of a row is its heading, `total` a last row set apart."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in headings)
    lines = [_row(row) for row in rows] + ([_row(total, ' class="total"')] if total else [])
    body = "".join(lines)
    inner = f"<table><caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return scrolling(caption, inner)


def _row(cells: Sequence[str], attributes: str = "") -> str:
    first, *rest = cells
    return f'<tr{attributes}><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'


def facts(caption: str, values: Mapping[str, object]) -> str:
    """A table of names and values."""
    rows = "".join(f'<tr><th scope="row">{escape(str(k))}</th><td>{escape(str(v))}</td></tr>' for k, v in values.items())
    return scrolling(
        caption, f'<table class="plain"><caption><span>{escape(caption)}</span></caption><tbody>{rows}</tbody></table>'
    )


def scrolling(name: str, html: str) -> str:
    """What may be wider than a phone, reachable by keyboard."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{html}</div>'


def figure(chart: Chart) -> str:
    """A chart with heading, legend and small print.

    Only the drawing is the plotting library's. Heading, legend and small print are the page's: they wrap on a phone, and their
    letters do not shrink with the chart.
    """
    heading = f"<h3>{escape(chart.heading)}</h3>"
    if not (chart.lines or chart.bars):
        return f"<figure>{heading}{paragraph(chart.empty)}</figure>"
    entries = "".join(
        f'<li><i class="{f"key-{colour} {style}".strip()}"></i>{escape(text)}</li>' for colour, style, text in chart.legend
    )
    key = f'<ul class="legend">{entries}</ul>' if entries else ""
    note = f"<figcaption>{escape(chart.note)}</figcaption>" if chart.note else ""
    return f"<figure>{heading}{chart_svg(chart)}{key}{note}</figure>"


def pair(*parts: str) -> str:
    """Parts side by side where there is room."""
    return f'<div class="pair">{"".join(parts)}</div>'


def paragraph(text: str, muted: bool = False) -> str:
    """Plain text as a paragraph."""
    return f"<p{' class=muted' if muted else ''}>{escape(text)}</p>"
