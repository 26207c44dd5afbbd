"""Load once, in the server that the processes of tests are forked from, what nearly every command needs first."""

import contextlib

import transformer_lens.utilities.bridge_components  # noqa: F401
import transformers.models.gemma3.modeling_gemma3
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from itda_lightning.pursuit.prepared import compiler_works
from tests.processes import loops_are_compiled

if loops_are_compiled():
    compiler_works()
with contextlib.suppress(Exception):  # a table that transformers keeps
    get_checkpoint_conversion_mapping("llama")
