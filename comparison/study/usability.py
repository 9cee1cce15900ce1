"""How much there is to write in each framework, counted in our own trainers' source."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import training
from digits.contract import FRAMEWORKS, Framework

ROOM: Final = Path(training.__file__).parent
# The packages whose names count as the framework's. For NumPy that is our own library too.
PACKAGES: Final[dict[Framework, tuple[str, ...]]] = {
    "numpy": ("numpy", "scratch"),
    "torch": ("torch",),
    "keras": ("keras", "tensorflow"),
}
# The function of each trainer that moves the weights, or has them moved: what a reader compares first.
EXHIBITS: Final[dict[Framework, str]] = {"numpy": "train_step", "torch": "train_step", "keras": "compile_model"}
BRANCHES: Final = (ast.If, ast.IfExp, ast.For, ast.While, ast.comprehension, ast.ExceptHandler, ast.Match)


@dataclass(frozen=True, kw_only=True)
class Usability:
    """What a trainer's module is made of; imports, docstrings and comments are not counted."""

    framework: Framework
    logical_lines: int  # statements, however many lines each takes
    framework_names: tuple[str, ...]  # distinct names of the framework that it uses, such as torch.nn.Linear
    methods: tuple[str, ...]  # distinct methods that it calls on objects, the framework's and others
    branches: int  # if, for, while, except, match, and each for of a comprehension
    exhibit: str  # the source of EXHIBITS
    installed_mb: float | None  # of the framework's own packages, without what they need; None if one is not installed


def usability(framework: Framework) -> Usability:
    """Counts in the source of `framework`'s trainer, which is not imported."""
    return count(framework, (ROOM / f"{framework}_trainer.py").read_text(encoding="utf-8"), EXHIBITS[framework])


def usabilities() -> list[Usability]:
    return [usability(framework) for framework in FRAMEWORKS]


def count(framework: Framework, source: str, exhibit: str) -> Usability:
    """Counts in `source`, a module that uses `framework` and has a function `exhibit`."""
    tree = ast.parse(source)
    modules = _imported(tree, PACKAGES[framework])
    names, methods = set(), set()
    for node in ast.walk(tree):
        dotted = _dotted(node)
        root, _, rest = dotted.partition(".")
        if root in modules:
            names.add(f"{modules[root]}.{rest}" if rest else modules[root])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = _dotted(node.func)
            if called.partition(".")[0] not in modules:
                methods.add(node.func.attr)
    # torch.nn.Linear is one name; the torch.nn and torch on the way to it are not.
    names = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
    return Usability(
        framework=framework,
        logical_lines=sum(_is_logical_line(node) for node in ast.walk(tree)),
        framework_names=tuple(sorted(names)),
        methods=tuple(sorted(methods)),
        branches=sum(isinstance(node, BRANCHES) for node in ast.walk(tree)),
        exhibit=next(
            ast.get_source_segment(source, node) or ""
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == exhibit
        ),
        installed_mb=_installed_mb(framework),
    )


def _installed_mb(framework: Framework) -> float | None:
    try:
        files = [
            file
            for package in PACKAGES[framework]
            if package != "scratch"
            for file in distribution(package).files or ()
        ]
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files)
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def _imported(tree: ast.Module, packages: tuple[str, ...]) -> dict[str, str]:
    """What each imported name of these packages stands for: nn -> torch.nn."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in packages:
                    found[alias.asname or alias.name.partition(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in packages:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _dotted(node: ast.AST) -> str:
    """a.b.c of an attribute of an attribute of a name; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _is_logical_line(node: ast.AST) -> bool:
    if not isinstance(node, ast.stmt) or isinstance(node, ast.Import | ast.ImportFrom):
        return False
    return not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
