"""Every example in a docstring of the package runs and prints what it shows; every public name has one."""

import doctest
import inspect
import pydoc

import pytest
import torch

import itda_lightning as il


def examples(name: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    public = getattr(il, name)
    public = public.__call__ if inspect.ismodule(public) else public  # il.fit is the command's module and a function
    return [test for test in finder.find(inspect.unwrap(public), name, globs={}) if test.examples]


@pytest.mark.parametrize("name", il.__all__)
def test_the_examples_of_public_names_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tests = examples(name)
    assert tests, f"{name} has no example"
    for test in tests:
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        said: list[str] = []
        runner.run(test, out=said.append)
        assert runner.failures == 0, "".join(said)


def test_help_tells_of_everything_public():
    names = ("encode", "detect", "decompose", "top_contexts", "typical_coefficient", "label", "find", "push_to_hub")
    attributes = ("metadata", "prompts", "label_prompts", "pursuit", "bias", "least_gain")
    told = pydoc.plain(pydoc.render_doc(il.Dictionary))
    assert not [name for name in (*names, *attributes) if name not in told]
    for module, sentence in (
        (il.fit, "Fit a dictionary on the activations of"),
        (il.steer, "Steer a language model by"),
    ):
        assert sentence in pydoc.plain(pydoc.render_doc(module))
    for name in names:
        assert ">>>" in inspect.getdoc(getattr(il.Dictionary, name)), name
