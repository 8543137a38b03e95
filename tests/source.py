"""What a source file imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def imports(source: str, module: str) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, runs when the module is imported) of each import in ``source``."""

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[int, str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((child.lineno, alias.name, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parent = module.split(".")[: -child.level]
                    base = ".".join([*parent, base]).rstrip(".")
                for alias in child.names:
                    yield child.lineno, f"{base}.{alias.name}", at_import
            deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            yield from visit(child, at_import and not deferred)

    yield from visit(ast.parse(source), True)
