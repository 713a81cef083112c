"""Tables of a study, put where its README shows them."""

import pathlib
import re


def fill(folder: pathlib.Path, text: str, name: str = "results") -> None:
    """Replace what stands between the markers `name` of a folder's README.md."""
    page = folder / "README.md"
    block = f"<!-- {name}: begin -->\n{text}\n<!-- {name}: end -->"
    pattern = f"<!-- {name}: begin -->.*<!-- {name}: end -->"
    found = re.sub(pattern, lambda _: block, page.read_text(encoding="utf-8"), flags=re.S)
    page.write_text(found, encoding="utf-8")
