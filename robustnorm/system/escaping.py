"""Escaping text from files before it is shown: one function per format."""

from __future__ import annotations

import re

# Control characters, those that reverse the direction of the text after them, and bytes of names
# that are no UTF-8, which Python keeps as surrogates and cannot print.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",  # in LaTeX's default encoding these three are other characters
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def for_terminal(text: str) -> str:
    r"""Returns the text with control characters escaped, except line breaks and tabs.

    Examples:
        >>> for_terminal("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def for_markdown(text: str) -> str:
    r"""Returns the text on one line, with tags, links, images and cell separators escaped.

    Examples:
        >>> print(for_markdown("a|b <script> p < 0.05 ![x](y)"))
        a\|b &lt;script> p < 0.05 !\[x]\(y)
    """
    text = " ".join(for_terminal(text).splitlines()).replace("\t", " ")
    text = re.sub("<(?=[A-Za-z/!?])", "&lt;", text)
    return text.replace("|", "\\|").replace("![", "!\\[").replace("](", "]\\(")


def for_latex(text: str) -> str:
    r"""Returns the text with LaTeX's special characters escaped.

    Examples:
        >>> for_latex(r"\input{x} 5 %")
        '\\textbackslash{}input\\{x\\} 5 \\%'
        >>> print(for_latex("p < 0.05"))
        p \textless{} 0.05
    """
    return "".join(_LATEX.get(character, character) for character in for_terminal(text))


def for_csv(text: str) -> str:
    """Returns the text for a cell, with an apostrophe before what a spreadsheet would compute.

    Examples:
        >>> for_csv("=1+2"), for_csv("-14.84"), for_csv("-x")
        ("'=1+2", '-14.84', "'-x")
    """
    text = for_terminal(text)
    number = re.fullmatch(r"[-+]?[0-9.,%]*", text)
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") and text and not number else text
