"""Call a function as soon as a package has been imported, without importing it."""

import sys
from collections.abc import Callable, Iterable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def call_after_import(package: str, function: Callable[[], object]) -> None:
    """Call ``function`` once: now if the package has been imported, else right after it is."""
    if package in sys.modules:
        function()
    else:
        sys.meta_path.insert(0, _Finder(package, function))


class _Finder(MetaPathFinder):
    """Find one package as Python does otherwise, with a loader that calls the function at the end."""

    def __init__(self, package: str, function: Callable[[], object]) -> None:
        self.package, self.function = package, function

    def find_spec(
        self,
        name: str,
        _path: Iterable[str] | None,
        _target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name != self.package:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, self)  # who only looks for the package does not import it
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the package by its own loader, whose module it is from then on, and call the function."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        sys.meta_path.remove(self.finder)
        self.finder.function()
