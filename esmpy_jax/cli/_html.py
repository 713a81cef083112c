"""Sections and figures of a page."""

import base64
import html

from ._figures import size

_text = html.escape


def section(title: str, lede: str, *body: str, anchor: str = "") -> str:
    """A section of the page: its title, a sentence as text, and what follows as HTML."""
    mark = f' id="{anchor}"' if anchor else ""
    content = "\n".join(body)
    return f"<section{mark}>\n<h2>{_text(title)}</h2>\n<p>{_text(lede)}</p>\n{content}\n</section>"


def figure(
    pictures: dict[str, bytes],
    name: str,
    alternative: str,
    *,
    caption: str = "",
    narrow: bool = False,
) -> str:
    """A PNG figure inside the page, at three fifths of its pixels."""
    image = pictures[name]
    width, height = size(image)
    source = base64.b64encode(image).decode("ascii")
    below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return (
        f"<figure{' class=narrow' * narrow}>"
        f'<img width="{width * 3 // 5}" height="{height * 3 // 5}" '
        f'alt="{_text(alternative)}" src="data:image/png;base64,{source}">{below}</figure>'
    )
