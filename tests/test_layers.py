"""The structure holds: lower layers never import higher ones, and the two pillars never meet.

The source is parsed, not imported, so a forbidden import counts even inside a function.
"""

import ast
import importlib.metadata
import pathlib
import subprocess
import sys

import pytest

import esmpy_jax

PACKAGE = pathlib.Path(esmpy_jax.__file__).resolve().parent
NAME = "esmpy_jax"

LAYERS = {
    "_types": 0,
    "_arrays": 0,
    "_xarray": 0,
    "_checks": 0,
    "_seldom": 0,
    "_basis": 0,
    "atomic": 1,
    "objective": 1,
    "physics": 2,
    "solve": 2,
    "model": 3,
    "inference": 4,
    "simulate": 5,
    "io": 5,
    "plot": 5,
    "cli": 5,
    "sharding": 5,
    "": 6,  # the root, which only re-exports
}
PHYSICS = {"atomic", "physics", "model"}
STATISTICS = {"objective", "solve"}


def unit_of(module: str) -> str:
    """The first name below the root: "esmpy_jax.atomic._lines" -> "atomic"; the root -> ""."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_units(source: str, module: str, *, is_package: bool) -> set[tuple[int, str]]:
    """(line number, unit) of everything inside the package that `source` imports."""
    found = set()
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base]) if base else ".".join(parents)
            if base == NAME:
                # `from esmpy_jax import x`: x is a unit of its own, or a name of the root.
                targets = [
                    f"{NAME}.{alias.name}" if alias.name in LAYERS else NAME for alias in node.names
                ]
            else:
                targets = [base]
        for target in targets:
            if target == NAME or target.startswith(NAME + "."):
                found.add((node.lineno, unit_of(target)))
    return found


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """One line for each import in `source` that the layering forbids."""
    unit = unit_of(module)
    bad = []
    for line, target in sorted(imported_units(source, module, is_package=is_package)):
        where = f"{module}, line {line}: '{unit or NAME}' imports '{target or NAME}'"
        if target not in LAYERS:
            bad.append(f"{where}, which has no layer")
        elif target == "" and unit not in {"", "cli"}:
            bad.append(f"{where}, the root, which is there for users only")
        elif target and LAYERS[target] > LAYERS[unit]:
            bad.append(f"{where}, a higher layer")
        elif {unit, target} & PHYSICS and {unit, target} & STATISTICS:
            bad.append(f"{where}, across the pillars")
    return bad


def forbidden_calls(source: str, module: str) -> list[str]:
    """`print(...)` and changes of JAX's global configuration, which a library leaves alone."""
    bad = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "print" or called.endswith("config.update"):
            bad.append(f"{module}, line {node.lineno}: calls {called}()")
    return bad


SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_every_unit_has_a_layer():
    units = {unit_of(module_name(path)) for path in SOURCES}
    assert units <= set(LAYERS), "give the new package or module a layer in LAYERS"
    assert {"atomic", "objective", "solve", "model", "inference", "cli"} <= units


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_respect_the_layers(path):
    source = path.read_text(encoding="utf-8")
    assert not violations(source, module_name(path), is_package=path.name == "__init__.py")


def test_library_never_prints_nor_configures_jax():
    bad = []
    for path in SOURCES:
        module = module_name(path)
        if unit_of(module) != "cli":
            bad += forbidden_calls(path.read_text(encoding="utf-8"), module)
    assert not bad


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("esmpy_jax.atomic._lines", "from ..physics import EnergyAxis", "higher layer"),
        ("esmpy_jax.physics._detector", "from esmpy_jax.model import EDSModel", "higher layer"),
        ("esmpy_jax.solve._solver", "import esmpy_jax.inference._fit", "higher layer"),
        ("esmpy_jax.inference._fit", "def f():\n    from ..io import load", "higher layer"),
        ("esmpy_jax._basis", "from .atomic import Element", "higher layer"),
        ("esmpy_jax.model._model", "from ..objective import poisson_nll", "across the pillars"),
        ("esmpy_jax.solve._updates", "from .. import atomic", "across the pillars"),
        ("esmpy_jax.objective._counts", "from ..atomic import Element", "across the pillars"),
        ("esmpy_jax.io._load", "import esmpy_jax as ej", "for users only"),
        ("esmpy_jax.plot._maps", "from .. import Solution", "for users only"),
        ("esmpy_jax.io._load", "from ..nowhere import x", "no layer"),
    ],
)
def test_a_forbidden_import_is_seen(module, source, complaint):
    found = violations(source, module)
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source", "is_package"),
    [
        ("esmpy_jax.physics._absorption", "from ..atomic import AttenuationTable", False),
        ("esmpy_jax.physics", "from ._absorption import absorption_factor", True),
        (
            "esmpy_jax.model._model",
            "from .._checks import check\nfrom .._basis import Basis",
            False,
        ),
        ("esmpy_jax.inference._fit", "from ..model import EDSModel\nfrom .. import solve", False),
        ("esmpy_jax.cli._app", "import esmpy_jax as ej\nfrom ..plot import maps", False),
        ("esmpy_jax", "from .inference import fit", True),
        ("esmpy_jax.solve._solver", "import jax\nfrom jax import numpy as jnp", False),
    ],
)
def test_an_allowed_import_passes(module, source, is_package):
    assert violations(source, module, is_package=is_package) == []


def test_a_print_and_a_configuration_change_are_seen():
    source = "import jax\njax.config.update('jax_enable_x64', True)\nif True:\n    print(1)\n"
    assert len(forbidden_calls(source, "esmpy_jax.solve._solver")) == 2


def test_the_command_is_installed_under_its_name():
    try:
        scripts = importlib.metadata.distribution("esmpy-jax").entry_points
    except importlib.metadata.PackageNotFoundError:
        # From a bare checkout: read what an install would register.
        import tomllib

        text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
        registered = tomllib.loads(text)["project"]["scripts"]
    else:
        registered = {s.name: s.value for s in scripts if s.group == "console_scripts"}
    assert registered == {"esmpy-jax": "esmpy_jax.cli:main"}


def test_the_root_names_the_same_for_type_checkers_and_at_run_time():
    """What is imported under TYPE_CHECKING is what `__getattr__` finds, from the same package."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    checked = {
        (alias.name, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    packages = {(name, None) for name in esmpy_jax._PACKAGES}
    assert checked == {*esmpy_jax._HOME.items(), *packages}
    for name in esmpy_jax.__all__:
        assert getattr(esmpy_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = esmpy_jax.nothing


def test_help_needs_no_jax():
    """In a fresh process, since this one has long imported it."""
    source = (
        "import sys\nfrom esmpy_jax.cli import main\nsys.argv = ['esmpy-jax', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", source], check=True, stdout=subprocess.DEVNULL)
