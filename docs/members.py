"""MkDocs hook: an API page shows exactly the names that its package re-exports.

mkdocstrings leaves imported names out unless they are listed. This lists them, read from the
package's `__init__.py`, so that no page has to be edited when a name is added.
"""

import ast
import pathlib
import re

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "esmpy_jax"
DIRECTIVE = re.compile(r"^::: esmpy_jax\.([a-z]+)$", re.MULTILINE)


def public_names(unit: str) -> list[str]:
    """What `from ._module import ...` brings into a package, in the order of its `__init__.py`."""
    source = (PACKAGE / unit / "__init__.py").read_text(encoding="utf-8")
    names = [
        alias.asname or alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    return [name for name in names if not name.startswith("_")]


def with_members(directive: re.Match[str]) -> str:
    lines = [directive[0], "    options:", "      show_root_heading: false"]
    lines += ["      show_root_toc_entry: false"]
    if (PACKAGE / f"{directive[1]}.py").exists():  # a module defines its names itself
        return "\n".join(lines)
    names = [f"        - {name}" for name in public_names(directive[1])]
    return "\n".join([*lines, "      members:", *names])


def on_page_markdown(markdown: str, **_) -> str:
    return DIRECTIVE.sub(with_members, markdown)
