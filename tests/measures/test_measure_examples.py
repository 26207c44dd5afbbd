"""The examples in the docstrings of the measures run and print what they show."""

import doctest
import importlib
import pkgutil

import pytest

from itda_lightning import measures

MODULES = [module.name for module in pkgutil.iter_modules(measures.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_measure_run(name):
    module = importlib.import_module(f"itda_lightning.measures.{name}")
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={}):
        runner = doctest.DocTestRunner()
        said: list[str] = []
        runner.run(test, out=said.append)
        assert runner.failures == 0, "".join(said)
