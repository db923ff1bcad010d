"""Read a page: its text, its tables, and whether it is well-formed and loads nothing."""

from html.parser import HTMLParser

VOID = ('meta', 'br')
LOADS = ('src', 'href', 'data', 'action', 'poster', 'srcset')


class ReadPage(HTMLParser):
    """A page's content; an element that is not closed, or an address to load, fails.

    Attributes:
        text: The text outside style and script, one entry per element.
        rows: The cells of all rows of tables.
        tags: The names of all elements.
        images: The pictures in the page.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.images: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f'not closed: {self._open}'

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        for name, value in attrs:
            if name in LOADS:
                assert value.startswith(('data:image/', '#')), value[:80]
                self.images += [value] if tag == 'image' else []
            assert 'url(' not in (value or '')
            assert not name.startswith('on'), 'a handler'
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ('style', 'script'):
            self.text.append(data)
            if {'td', 'th'} & {*self._open}:
                self.rows[-1][-1] += data
