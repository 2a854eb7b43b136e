"""A page as a browser reads it."""

import itertools
from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "hr"}


class Page(HTMLParser):
    """What a page holds; refuses elements that are not closed, or closed in another order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.attributes, self.tables = [], [], [], {}
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.attributes += [(tag, key, value) for key, value in attributes]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.names.append(tag)
        self.attributes += [(tag, key, value) for key, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = [[" ".join(c.split()) for c in row] for row in self.rows]

    def handle_data(self, data):
        self.text += data
        if "caption" in self.open:
            self.caption += data
        elif "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def values(self, key):
        return [value for _, name, value in self.attributes if name == key]


def plain(cells):
    """Undoes typography: minus signs, dashes, and first cells that span rows."""
    rows = [[cell.replace("−", "-").replace("–", "-") for cell in row] for row in cells]
    width = max(map(len, rows))
    for above, row in itertools.pairwise(rows):
        if len(row) == width - 1:
            row.insert(0, above[0])
    return rows
