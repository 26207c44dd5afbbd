"""Load once, in the server that the processes of tests are forked from, what nearly every command needs first."""

import contextlib
from pathlib import Path

import transformer_lens.utilities.bridge_components  # noqa: F401
import transformers.models.gemma3.modeling_gemma3
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from itda_lightning.pursuit import kernels
from itda_lightning.pursuit.prepared import compiler_works

# The loops are loaded if they are compiled: that takes half a minute, which a server must not spend beside a test's.
directory = Path(*kernels.__path__)
changed = max(file.stat().st_mtime for file in directory.glob("*.py"))
cached = directory.glob("__pycache__/*.nbi")
compiled = {file.name.split("-")[0] for file in cached if file.stat().st_mtime > changed}
if compiled >= {"gram_rows.pursue_rows", "gram_rows.pursue_and_append", "single_steps.select", "single_steps.take"}:
    compiler_works()
with contextlib.suppress(Exception):  # a table that transformers keeps
    get_checkpoint_conversion_mapping("llama")
