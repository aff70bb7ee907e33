"""A page of HTML as its parts, for tests."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags, the texts and the addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data")]

    def handle_data(self, data):
        self.texts.append(data)
