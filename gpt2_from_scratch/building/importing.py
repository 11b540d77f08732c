"""Imports somebody's Python file, under the name and in the package that it has."""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt2_from_scratch.errors import CandidateError, CheckpointError, DivergenceError, crash_report


def import_file(place: str) -> types.ModuleType:
    """Imports a Python file by its path, or a module by its dotted name.

    A file inside a package (a folder with `__init__.py`) is imported as part of it, so its relative imports work.

    Raises:
        CandidateError: there is no such file, or it cannot be imported; with the user's own file and line.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return executed(path)
    dotted = all(part.isidentifier() for part in place.split("."))
    with _importable(Path.cwd()):
        if dotted and _finds(place):
            return _imported(place, place)
    raise CandidateError(
        f"{place} does not exist",
        hint="give the path of a Python file, or the dotted name of a module that can be imported from here",
    )


def _finds(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def executed(
    path: Path, constants: Mapping[str, Any] = types.MappingProxyType({}), source: str | None = None
) -> types.ModuleType:
    """The module of a file.

    Args:
        path: of the file.
        constants: values for top-level constants of these names, instead of the file's.
        source: taken for what the file holds.
    """
    folder = path.resolve().parent
    parts = [path.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    name, package = ".".join(parts), ".".join(parts[:-1])
    module = types.ModuleType(name)
    module.__file__, module.__package__ = str(path), package
    module.__spec__ = importlib.util.spec_from_file_location(name, path)
    with _importable(folder):
        if package:
            _imported(package, str(path))
        sys.modules[name] = module  # dataclasses and pickles in the file look themselves up here
        try:
            tree = ast.parse(path.read_bytes() if source is None else source, filename=str(path))
            exec(compile(_Constants(constants).visit(tree), str(path), "exec"), module.__dict__)
        except Exception as error:
            raise failed(f"{path} cannot be imported", error, path) from error
    return module


def _imported(name: str, place: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise failed(f"{place} cannot be imported", error, Path(place)) from error


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have removed it
            sys.path.remove(str(folder))


class _Constants(ast.NodeTransformer):
    """Gives top-level constants of a file other values, so that what the file computes from them follows."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def visit_Module(self, node: ast.Module) -> ast.Module:
        for statement in node.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant() as constant):
                    self._set(name, constant)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant() as constant):
                    self._set(name, constant)
                case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=constants)):
                    for each, value in zip(names, constants, strict=False):
                        if isinstance(each, ast.Name) and isinstance(value, ast.Constant):
                            self._set(each.id, value)
        return node

    def _set(self, name: str, constant: ast.Constant) -> None:
        constant.value = self.values.get(name, constant.value)


def failed(what: str, error: Exception, path: Path) -> CandidateError:
    """The user's own line, and the error that it raised."""
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != path.stem:
        return CandidateError(f"{what}: it imports {error.name!r}, which is not installed", hint="install it first")
    hint = error.hint if isinstance(error, CheckpointError | CandidateError | DivergenceError) else ""
    return CandidateError(f"{what}: {crash_report(error)}", hint=hint)


def is_of(module: types.ModuleType, value: Any) -> bool:
    """Whether a name was made in the module, not imported into it."""
    return getattr(value, "__module__", module.__name__) == module.__name__ and not inspect.ismodule(value)
