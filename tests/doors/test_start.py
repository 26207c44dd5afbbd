"""Check what commands import before they have parsed their options, each group of them in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

import itda_lightning as il

ROOT = Path(__file__).parents[2]
# Their options need no class of Lightning's.
FUNCTIONS = [
    *("demo", "evaluate", "export", "push", "decompose", "steer", "page", "neuronpedia", "delphi", "transfer", "diff"),
    *("verify", "doctor"),
]
CLASSES = ["fit", "harvest", "compare", "similarity"]
HELP = """
import contextlib, io, runpy, sys
for door in {doors}:
    sys.argv = [door, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_module("itda_lightning." + door, run_name="__main__", alter_sys=True)
    assert out.getvalue().startswith("usage:"), (door, out.getvalue())
print(*sys.modules)
"""


def modules_after(code: str) -> set[str]:
    """Return the modules that a process has imported, which prints them at the end."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_help_of_most_commands_does_not_wait_for_torch():
    modules = modules_after(HELP.format(doors=FUNCTIONS))
    assert "jsonargparse" in modules
    assert not modules & {"torch", "numpy", "lightning", "sae_lens", "transformer_lens", "transformers", "datasets"}


@pytest.mark.long
def test_help_of_the_others_waits_for_lightning_alone():
    modules = modules_after(HELP.format(doors=CLASSES))
    assert "lightning" in modules
    assert not modules & {"sae_lens", "transformer_lens", "bitsandbytes", "datasets", "pandas", "numba", "wandb"}


def test_importing_the_package_imports_no_other():
    modules = modules_after("import itda_lightning as il; il.InputError; import sys; print(*sys.modules)")
    assert "itda_lightning" in modules
    assert not modules & {"torch", "numpy", "jsonargparse", "lightning", "sae_lens"}


def test_a_dictionary_does_not_wait_for_models():
    code = (
        "import itda_lightning as il, torch; il.Dictionary(torch.eye(4), k=2).encode(torch.eye(4)); "
        "import sys; print(*sys.modules)"
    )
    modules = modules_after(code)
    assert "torch" in modules
    assert not modules & {"lightning", "sae_lens", "transformer_lens", "transformers", "datasets"}


def test_public_names_are_those_that_are_listed():
    assert sorted(il._HOME) == sorted(il.__all__)
    assert set(il.__all__) <= set(dir(il))
    for name in il.__all__:
        assert getattr(il, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="module 'itda_lightning' has no attribute 'nothing'"):
        il.nothing  # noqa: B018


@pytest.mark.long
@pytest.mark.parametrize(
    "imports",
    [
        "import itda_lightning; import sae_lens",
        "import sae_lens; import itda_lightning",
        "from itda_lightning.saelens import ITDASAE; import sae_lens",
        "from itda_lightning.activations.models import loaders; import sae_lens",
        "from itda_lightning.evaluation import entries; import sae_lens",
    ],
)
def test_saelens_knows_the_architecture_in_either_order(imports):
    code = f"{imports}; print(sae_lens.registry.get_sae_class('itda')[0].__name__)"
    assert "ITDASAE" in modules_after(code)
