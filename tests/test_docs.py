"""The documentation speaks of things that exist: names, arguments, flags, API pages, links."""

import ast
import inspect
import pathlib
import re
import shlex
import sys
import textwrap

import pytest

import esmpy_jax as ej
from esmpy_jax import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
UNITS = sorted(
    path.parent.name
    for path in pathlib.Path(ej.__file__).resolve().parent.glob("*/__init__.py")
    if path.parent.name != "cli"  # documented by hand
)

#: The class of each variable that the examples use.
VARIABLES = {"image": "SpectrumImage", "model": "EDSModel", "solution": "Solution"}


def blocks(page, language):
    """The fenced code blocks of one language, indented ones too."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def page_id(page):
    return str(page.relative_to(ROOT))


def resolve(expression):
    """The object that `ej.a.b` names, or None where the expression does not start at `ej`."""
    name, *attributes = expression.split(".")
    if name != "ej":
        return None
    found = ej
    for attribute in attributes:
        found = getattr(found, attribute)
    return found


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=page_id)
def test_python_examples_name_what_exists(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call):
                called = resolve(ast.unparse(node.func))
                if called is not None:
                    keywords = {k.arg: None for k in node.keywords if k.arg}
                    inspect.signature(called).bind(*[None] * len(node.args), **keywords)
            elif isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                if owner == "ej":
                    assert hasattr(ej, node.attr), f"esmpy_jax has no {node.attr}"
                elif owner in VARIABLES:
                    owner = getattr(ej, VARIABLES[owner])
                    fields = getattr(owner, "__dataclass_fields__", {})
                    assert hasattr(owner, node.attr) or node.attr in fields, (
                        f"{owner.__name__} has no {node.attr}"
                    )


@pytest.fixture
def help_of(monkeypatch, capsys):
    """`help_of("fit")` is what `esmpy-jax fit --help` prints."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def read(*words):
        monkeypatch.setattr(sys, "argv", ["esmpy-jax", *words, "--help"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code in (0, None), words
        return capsys.readouterr().out

    return read


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=page_id)
def test_shell_examples_use_flags_that_exist(page, help_of):
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] != ["esmpy-jax"]:
                    continue
                known = set(re.findall(r"--[a-z][a-z-]*", help_of(words[1])))
                used = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
                assert used <= known, line


@pytest.mark.parametrize("unit", UNITS)
def test_every_package_has_an_api_page(unit):
    page = (ROOT / "docs" / "api" / f"{unit}.md").read_text(encoding="utf-8")
    assert f"\n::: esmpy_jax.{unit}\n" in page
    assert f"api/{unit}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if path and not target.startswith(("http://", "https://")):
            assert (page.parent / path).exists(), target
