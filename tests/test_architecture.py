"""The rules of the house (DESIGN §2): who may import what, and what is there by which name."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import peewee_web

PACKAGE = Path(peewee_web.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# The frameworks that each adapter may import, by the top-level names of their packages.
FRAMEWORKS = {
    "flask": {"flask", "werkzeug"},
    "django": {"django", "asgiref"},
    "falcon": {"falcon"},
    "bottle": {"bottle"},
    "tornado": {"tornado"},
    "wsgi": set[str](),
    "asgi": set[str](),
    "testing": {"pytest"},
}
PEEWEE = {"peewee", "playhouse"}
# Only for type checkers, under `if TYPE_CHECKING`.
TYPES = {"_typeshed", "typing_extensions"}
# DESIGN §9, as far as it is built.
PUBLIC = {
    *("connect", "scope", "Scope", "Databases", "ScopedDatabase"),
    *("PooledDatabase", "PooledPostgresqlDatabase", "PooledMySQLDatabase", "PooledSqliteDatabase"),
    *("ReplicatedDatabase", "using", "retry", "RetryOperationalError", "check"),
    *("PoolStats", "NoConnection", "PoolTimeout", "DatabaseUnavailable", "ScopeClosed"),
}


def name_of(module: Path) -> str:
    parts = module.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    """The part of the package that a module is in: ``core``, ``wsgi``, a framework's; ``""`` for the package itself."""
    return [*name.split("."), ""][1]


def imports(module: Path) -> Iterator[str]:
    """The absolute names of all modules that *module* imports, wherever in it and for whatever purpose."""
    package = name_of(module) if module.name == "__init__.py" else name_of(module).rpartition(".")[0]
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield from (f"{base}.{alias.name}" for alias in node.names) if base == "peewee_web" else (base,)


def foreign_imports(module: Path) -> set[str]:
    """The top-level names of what *module* imports that is neither ours nor the standard library's."""
    top = {name.partition(".")[0] for name in imports(module)}
    return top - sys.stdlib_module_names - TYPES - {"peewee_web"}


def own_imports(module: Path) -> set[str]:
    """The parts of this package that *module* imports."""
    return {part_of(name) for name in imports(module) if name.split(".")[0] == "peewee_web"}


ADAPTERS = [module for module in MODULES if part_of(name_of(module)) not in ("", "core")]
core = pytest.mark.parametrize("module", sorted((PACKAGE / "core").rglob("*.py")), ids=name_of)


@core
def test_the_core_imports_peewee_and_the_standard_library_only(module: Path) -> None:
    assert foreign_imports(module) <= PEEWEE
    assert own_imports(module) <= {"core"}


KIN = ("pool", "ledger", "stats", "checkout", "resetting", "lease", "waiting", "options", "watchdog", "fork", "state")
POOL = [*(PACKAGE / "core" / f"{name}.py" for name in KIN), *(PACKAGE / "core" / "drivers").glob("*.py")]


@pytest.mark.parametrize("module", POOL, ids=name_of)
def test_the_pool_and_its_kin_name_nothing_of_peewees(module: Path) -> None:
    assert foreign_imports(module) == set()
    named = {node.id for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Name)}
    assert not {name for name in named if "peewee" in name.lower()}


def test_a_scope_knows_nothing_of_peewee() -> None:
    assert foreign_imports(PACKAGE / "core" / "scope.py") == set()


@pytest.mark.parametrize("module", ADAPTERS, ids=name_of)
def test_an_adapter_imports_its_own_framework_and_no_other_adapter(module: Path) -> None:
    part = part_of(name_of(module))
    assert part in FRAMEWORKS, f"name the frameworks of {part} in this test"
    assert foreign_imports(module) <= FRAMEWORKS[part] | PEEWEE
    assert own_imports(module) <= {"core", "wsgi", "asgi", part}


@pytest.mark.parametrize("part", ["wsgi", "asgi"])
def test_the_generic_middleware_does_not_know_the_other_one(part: str) -> None:
    for module in (PACKAGE / part).glob("*.py"):
        assert own_imports(module) <= {"core", part}


def imported_by(statement: str) -> set[str]:
    """The top-level modules that *statement* loads in a fresh interpreter."""
    program = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


ALL_FRAMEWORKS = set.union(*FRAMEWORKS.values())
ADAPTERS = sorted(name for name in FRAMEWORKS if FRAMEWORKS[name] and (PACKAGE / name / "__init__.py").exists())


@pytest.mark.parametrize("module", ["peewee_web", "peewee_web.wsgi", "peewee_web.asgi"])
def test_importing_the_package_loads_no_framework(module: str) -> None:
    assert imported_by(f"import {module}") & ALL_FRAMEWORKS == set()


@pytest.mark.parametrize("part", ADAPTERS)
def test_importing_an_adapter_loads_its_own_framework_only(part: str) -> None:
    loaded = imported_by(f"import peewee_web.{part}") & ALL_FRAMEWORKS
    assert loaded <= FRAMEWORKS[part]


def test_importing_the_package_opens_no_database_driver_that_peewee_has_not() -> None:
    """Peewee itself tries the drivers that it knows; we add none."""
    drivers = {"psycopg", "psycopg2", "pymysql", "MySQLdb", "mysql", "mariadb", "apsw"}
    peewees = imported_by("import peewee, playhouse.pool, playhouse.db_url")
    assert (imported_by("import peewee_web") - peewees) & drivers == set()


def test_every_public_name_is_there() -> None:
    assert set(peewee_web.__all__) >= PUBLIC
    assert {name for name in peewee_web.__all__ if not hasattr(peewee_web, name)} == set()


def test_no_name_is_public_that_the_design_does_not_have() -> None:
    assert set(peewee_web.__all__) <= PUBLIC


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("wsgi", {"PeeweeMiddleware"}),
        ("asgi", {"PeeweeMiddleware"}),
        ("flask", {"Peewee"}),
        ("django", {"PeeweeMiddleware"}),
        ("falcon", {"PeeweeMiddleware", "install"}),
        ("bottle", {"PeeweePlugin"}),
        ("tornado", {"PeeweeRequestHandler", "PeeweeMixin", "PeeweeWebSocketHandler"}),
    ],
)
def test_an_adapter_has_the_names_that_the_design_promises(part: str, names: set[str]) -> None:
    """Read, not imported: Django's wants settings first."""
    tree = ast.parse((PACKAGE / part / "__init__.py").read_text())
    [exported] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    ]
    assert names <= set(exported)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_every_file_says_what_it_is_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))
