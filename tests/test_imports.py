"""Which files may import which, and that importing a package does not load TensorFlow."""

import ast
import pathlib
import re
import subprocess
import sys

FLOORS = ("storage", "decoding", "tasks", "rl", "recallm_jax", "configs", "benchmarks")
# The answer in a response, the truth, and what a scorer is: all that rl may know of tasks.
SCORING = {
    "tasks.scoring.answers",
    "tasks.scoring.reward",
    "tasks.scoring.truth",
}
# Imported only inside the functions that need them.
LAZY = ("tensorflow", "seqio", "tensorboard", "wandb")
# Its purpose is to register tasks on import.
REGISTERS = "recallm_jax.registered_tasks"
JOBS = {
    f"recallm_jax.{path.stem}"
    for path in pathlib.Path("recallm_jax").glob("*.py")
    if path.name not in ("__init__.py", "registered_tasks.py")
}
MAY_IMPORT = {
    "storage": {"storage"},
    "decoding": {"decoding", "storage"},
    "tasks": {"tasks", "storage"},
    "rl": {"rl", "decoding", "storage", *SCORING},
    "recallm_jax": {"recallm_jax", "rl", "decoding", "tasks", "storage"},
    "configs": {"configs"},
    "benchmarks": {"benchmarks", "recallm_jax", "rl", "decoding", "tasks", "storage"},
}
FILES = sorted(path for floor in FLOORS for path in pathlib.Path(floor).rglob("*.py"))
MODULES = {".".join(path.with_suffix("").parts): path for path in FILES}


def imports(path: pathlib.Path, *, top_level: bool = False) -> set[str]:
    """Return the modules that a file names in its imports, `from a import b` as `a` or `a.b`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: the path of a file is its import name"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = inner & (MODULES.keys() | SCORING)
            names |= modules or {node.module}
    return names


def test_a_file_imports_only_what_its_floor_may():
    refused = []
    for path in FILES:
        allowed = MAY_IMPORT[path.parts[0]]
        refused += [
            f"{path} imports {name}"
            for name in sorted(imports(path))
            if name.partition(".")[0] in FLOORS
            and not any(name == a or name.startswith(a + ".") for a in allowed)
        ]
    assert refused == []


def test_no_files_import_each_other_in_a_circle():
    """Imports inside functions and under TYPE_CHECKING count: they only hide a circle."""
    graph = {name: imports(path) & MODULES.keys() for name, path in MODULES.items()}
    assert circles(graph) == []


def test_a_circle_of_imports_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert circles(graph) == [{"b", "c"}]


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that reach each other."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += graph[name]
        return found

    reach = {name: reached(name) for name in graph}
    in_circles = [
        {other for other in graph if other in reach[name] and name in reach[other]}
        for name in graph
        if name in reach[name]
    ]
    return [circle for number, circle in enumerate(in_circles) if circle not in in_circles[:number]]


def test_nothing_imports_jobs():
    """A module below the jobs that imported one would join the floors in a circle."""
    assert {"recallm_jax.train", "recallm_jax.evaluate"} < JOBS
    found = [f"{path} imports {name}" for path in FILES for name in sorted(imports(path) & JOBS)]
    assert found == []


def test_package_files_are_empty():
    full = [path for path in FILES if path.name == "__init__.py" and path.read_text()]
    assert full == []


def test_tests_are_not_a_package():
    assert list(pathlib.Path("tests").rglob("__init__.py")) == []


def test_tensorflow_is_imported_in_functions_or_seqio_modules_only():
    for path in FILES:
        roots = {name.partition(".")[0] for name in imports(path, top_level=True)}
        if roots & set(LAZY):
            assert path.parts[0] == "tasks", path


def test_importing_everything_but_the_seqio_modules_loads_no_tensorflow():
    seqio_side = {
        name
        for name, path in MODULES.items()
        if {n.partition(".")[0] for n in imports(path, top_level=True)} & set(LAZY)
    }
    # Modules that import one of these at their top are on that side too.
    while more := {
        name
        for name, path in MODULES.items()
        if name not in seqio_side and imports(path, top_level=True) & seqio_side
    }:
        seqio_side |= more
    assert not any(name.startswith(("recallm_jax", "rl", "decoding")) for name in seqio_side)
    modules = [
        name.removesuffix(".__init__")
        for name in MODULES
        if name not in {*seqio_side, REGISTERS} and not name.startswith("benchmarks")
    ]
    code = "import sys\n" + "".join(f"import {name}\n" for name in modules)
    code += f"print([name for name in {LAZY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def private_names(path: pathlib.Path) -> set[str]:
    """Return the underscored modules that a file imports, and attributes that it reads of others.

    `os._exit` and the `_replace` of named tuples are public.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            found.add(f".{node.attr}")
    found -= {"__future__.annotations", "._exit", "._replace"}
    return {name for name in found if re.search(r"(^|\.)_(?!_)", name)}


def test_the_private_api_of_libraries_is_used_in_one_file():
    used = {str(path): names for path in FILES if (names := private_names(path))}
    assert used == {"recallm_jax/runtime/private_api.py": {"jax._src.distributed"}}
