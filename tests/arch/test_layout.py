"""The layout rules that a tool can check: small folders, no import cycles (lazy ones included), no sys.path edits."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.house import cycles, imports, sources

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES = 20
"""Source files directly in one folder, `__init__.py` included."""
LAZY = {("fw_model.model.model", "fw_model.checkpoints.checkpoint")}
"""The one cycle: `FantasyWorld.from_pretrained` loads checkpoints, and loading a checkpoint builds a `FantasyWorld`."""


def programs() -> Iterator[Path]:
    """Every Python file that we wrote, tests and benchmarks included."""
    for room in ("apps", "benchmarks", "docs", "examples", "packages", "tests"):
        yield from (path for path in (ROOT / room).rglob("*.py") if "node_modules" not in path.parts)


def edits_sys_path(node: ast.AST) -> bool:
    """Whether a statement or expression assigns to `sys.path` or calls one of its methods."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "sys.path"
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    return any(ast.unparse(t.value if isinstance(t, ast.Subscript) else t) == "sys.path" for t in targets)


def test_a_folder_holds_at_most_20_source_files() -> None:
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in sources().values())
    crowded = {folder: count for folder, count in counts.items() if count > MOST_FILES}
    assert not crowded, f"more than {MOST_FILES} files: {crowded}; split the folder by task"


def test_imports_form_no_cycle() -> None:
    modules = sources()
    graph = {name: imports(ast.parse(path.read_text()), modules) - {name} for name, path in modules.items()}
    assert sum(map(len, graph.values())) > 1000
    for module, imported in LAZY:
        assert imported in graph[module], f"{module} no longer imports {imported}: take it off the list"
        graph[module].remove(imported)
    found = cycles(graph)
    assert not found, f"import cycles: {found}; move the shared part into a third module"


def test_nobody_edits_sys_path() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for path in programs()
        for node in ast.walk(ast.parse(path.read_text()))
        if edits_sys_path(node)
    ]
    assert not found, f"{found}: install the package, or set pythonpath in pyproject.toml"
