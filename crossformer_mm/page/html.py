"""Build a page in one HTML file that loads nothing else: style, script and pictures are inside it."""

import html
import math
from collections.abc import Iterable, Sequence

from ..utils.text import printable_lines

_VOID = ('meta',)
# The browser loads and runs nothing but what is in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
COLOURS = 10  # of the classes c0, c1, … for lines, boxes and bars

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --fore: #1c2128; --faint: #667; --rule: #d8dce2;
  --soft: #f4f6f8; --heat: 31, 119, 180; }
@media (prefers-color-scheme: dark) { :root { --back: #14171c; --fore: #e4e7eb; --faint: #98a1ad;
  --rule: #363c45; --soft: #1e232a; --heat: 70, 150, 220; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1160px; padding: 0 16px 48px;
  color: var(--fore); background: var(--back); overflow-wrap: anywhere; }
h1 { font-size: 1.5em; margin: .8em 0 .3em; } h2 { font-size: 1.2em; margin: 2em 0 .6em;
  border-bottom: 1px solid var(--rule); padding-bottom: .2em; } h3 { font-size: 1em; margin: 1.2em 0 .4em; }
p { margin: .4em 0; } .faint, figcaption, dt { color: var(--faint); } figcaption { font-size: .87em; }
code, pre { font: .87em/1.45 ui-monospace, monospace; background: var(--soft); border-radius: 4px; }
code { padding: .1em .3em; } pre { padding: 10px; overflow-x: auto; overflow-wrap: normal; }
.state { font-weight: 600; } .bad { color: #c4302b; } @media (prefers-color-scheme: dark) {
  .bad { color: #ff8b85; } }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0; }
.card { border: 1px solid var(--rule); border-radius: 6px; padding: 8px 14px; background: var(--soft); }
.card b { display: block; font-size: 1.5em; font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(7em, max-content) 1fr; gap: 3px 18px; margin: 0; }
dd { margin: 0; } summary { cursor: pointer; }
.charts, .pictures { display: grid; gap: 18px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%%, 460px), 1fr)); }
.small { grid-template-columns: repeat(auto-fill, minmax(min(46%%, 210px), 1fr)); }
figure { margin: 0; min-width: 0; } svg { display: block; width: 100%%; height: auto; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
.scroll { overflow: auto; max-height: 34em; border: 1px solid var(--rule); border-radius: 6px;
  max-width: 100%%; width: fit-content; }
table { border-collapse: collapse; font-size: .9em; } th, td { padding: 3px 10px; text-align: left;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
td:first-child { max-width: 22em; min-width: 6.5em; overflow-wrap: break-word; }
th { background: var(--soft); position: sticky; top: 0; z-index: 1; vertical-align: bottom; }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid; }
th button::after { content: ' ↕'; color: var(--faint); } .up button::after { content: ' ↑'; }
.down button::after { content: ' ↓'; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; }
td.num { white-space: nowrap; }
.matrix td { text-align: right; border: 1px solid var(--rule); font-variant-numeric: tabular-nums; }
.matrix thead td { text-align: left; vertical-align: bottom; background: var(--soft); }
.matrix thead th { writing-mode: vertical-rl; transform: rotate(180deg); position: static; text-align: left;
  max-height: 12em; } .matrix th { font-weight: 400; max-width: 14em; }
.bar { width: 30vw; max-width: 320px; min-width: 90px; }
.bar div { height: .8em; min-width: 1px; border-radius: 2px; }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--faint); stroke-width: 1; }
svg text { font: 12px system-ui, sans-serif; fill: var(--faint); } .line { fill: none; stroke-width: 1.7; }
.dash { stroke-dasharray: 5 4; } .key { display: inline-block; margin-right: 14px; white-space: nowrap; }
.key svg { display: inline-block; width: 22px; height: 8px; margin-right: 5px; }
.key i { display: inline-block; width: 14px; height: .7em; margin-right: 5px; border-radius: 2px; }
svg .tag { fill: #fff; stroke: #000; paint-order: stroke; stroke-linejoin: round; font-weight: 600; }
.box { fill: none; } .shape { fill-opacity: .35; stroke-opacity: .9; }
%s
@media print { .scroll { max-height: none; overflow: visible; } body { max-width: none; font-size: 11px; }
  figure, .card, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } th { position: static; } }
@media (max-width: 560px) { .bar { min-width: 60px; } th, td { padding: 3px 6px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 6px; } }
"""
# Tables are sorted by the column that is clicked, numbers from the largest on; dashes stay last.
_SCRIPT = """
document.querySelectorAll('table.sortable').forEach(function (table) {
  var body = table.tBodies[0], heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach(function (head, column) {
    if (!head.textContent) return;
    var button = document.createElement('button');
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', function () {
      var numbers = head.classList.contains('num');
      var down = numbers ? !head.classList.contains('down') : head.classList.contains('up');
      heads.forEach(function (other) { other.classList.remove('up', 'down'); });
      head.classList.add(down ? 'down' : 'up');
      var rows = Array.from(body.rows).map(function (row) {
        var text = row.cells[column].textContent, number = parseFloat(text.replace(/,/g, ''));
        return { row: row, key: numbers ? number : text };
      });
      rows.sort(function (a, b) {
        if (typeof a.key === 'string') return (down ? -1 : 1) * a.key.localeCompare(b.key);
        if (isNaN(a.key) || isNaN(b.key)) return isNaN(a.key) - isNaN(b.key);
        return (down ? -1 : 1) * (a.key - b.key);
      });
      rows.forEach(function (item) { body.append(item.row); });
    });
  });
});
document.querySelectorAll('time[datetime]').forEach(function (time) {
  var minutes = Math.round((Date.now() - new Date(time.dateTime)) / 60000);
  var age = minutes < 120 ? minutes + ' min' : Math.round(minutes / 60) + ' h';
  if (minutes > 0) time.append(' (' + age + ' ago)');
});
"""
_HUES = ['1f77b4', 'ff7f0e', '2ca02c', 'd62728', '9467bd', '8c564b', 'e377c2', '7f7f7f', 'bcbd22', '17becf']


class Html(str):
    """Text that is HTML already; all other text is escaped."""


Child = str | Html


def text(value: object) -> Html:
    """Escape text from anywhere, also characters that control or reorder text."""
    return Html(html.escape(printable_lines(str(value))))


def join(parts: Iterable[Child]) -> Html:
    """Join parts of a page, and escape those that are not HTML."""
    return Html(''.join(part if isinstance(part, Html) else text(part) for part in parts))


def element(name: str, /, *children: Child, **attributes: object) -> Html:
    """An element.

    Args:
        name: Its name.
        *children: Its content, of which text is escaped.
        **attributes: Its attributes, without those that are None. Underscores become hyphens, but not the
            last one of ``class_``.
    """
    pairs = ((key.rstrip('_').replace('_', '-'), value) for key, value in attributes.items())
    inner = ''.join(f' {key}="{text(value)}"' for key, value in pairs if value is not None)
    return Html(f'<{name}{inner}>' if name in _VOID else f'<{name}{inner}>{join(children)}</{name}>')


def page(title: str, *content: Child) -> str:
    """A complete page.

    Args:
        title: Its title.
        *content: What it shows.
    """
    hues = '\n'.join(
        f'.c{i} {{ stroke: #{hue}; }} .f{i} {{ fill: #{hue}; background: #{hue}; }}'
        for i, hue in enumerate(_HUES)
    )
    head = element(
        'head',
        element('meta', charset='utf-8'),
        element('meta', http_equiv='Content-Security-Policy', content=_POLICY),
        element('meta', name='viewport', content='width=device-width, initial-scale=1'),
        element('title', title),
        element('style', Html(_STYLE % hues)),
    )
    body = element('body', *content, element('script', Html(_SCRIPT)))
    return f'<!DOCTYPE html>\n{element("html", head, body, lang="en")}\n'


def section(title: str, *content: Child) -> Html:
    """A part of a page under a heading; empty without content."""
    content = [part for part in content if part]
    return element('section', element('h2', title), *content) if content else Html()


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """A list of names and values, without those that have no value."""
    shown = [(name, value) for name, value in pairs if value]
    return element('dl', *(join([element('dt', n), element('dd', v)]) for n, v in shown)) if shown else Html()


def table(heads: Sequence[str], rows: Iterable[Sequence[Child]], words: int = 1) -> Html:
    """A table that can be sorted by clicking on a column's head.

    Args:
        heads: The columns' heads.
        rows: The cells of each row.
        words: How many columns at the left have words; the others have numbers, or a dash.
    """

    def cells(name: str, row: Sequence[Child]) -> Html:
        kinds = ('num' if column >= words else None for column in range(len(row)))
        pairs = zip(row, kinds, strict=True)
        return element('tr', *(element(name, cell, class_=kind) for cell, kind in pairs))

    head = element('thead', cells('th', heads))
    body = element('tbody', *(cells('td', row) for row in rows))
    return element('div', element('table', head, body, class_='sortable'), class_='scroll')


def bar(share: float) -> Html:
    """A bar in a table's cell, whose length is from 0 to 1."""
    inner = element('div', class_='f0', style=f'width:{100 * share:.1f}%')
    return element('div', inner, class_='bar')


def number(value: float, digits: int = 3) -> str:
    """A number with so many decimals, or a dash for NaN."""
    return f'{value:.{digits}f}' if math.isfinite(value) else '–'
