"""SAELens's ActivationsStore over rows of tokens."""

import warnings

from datasets import Dataset
from sae_lens.training.activations_store import ActivationsStore

from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.text.rows import Rows


def make_store(
    language_model: LanguageModel,
    rows: Rows,
    start_row: int = 0,
    model_batch_size: int = 16,
    stop_row: int | None = None,
) -> ActivationsStore:
    """Return a new SAELens store that reads the rows ``start_row..stop_row`` in order."""
    dataset = Dataset.from_dict({"input_ids": rows.tokens[start_row:stop_row].tolist()})
    with warnings.catch_warnings():
        # The store compares the number of rows with a number of tokens.
        warnings.filterwarnings("ignore", message="The training dataset contains fewer samples")
        return ActivationsStore.from_config_multi_hook(
            language_model.model,
            dataset=dataset,
            hook_names=list(language_model.widths),
            hook_d_ins=language_model.widths,
            streaming=False,
            context_size=rows.context_size,
            store_batch_size_prompts=model_batch_size,
            total_training_tokens=rows.tokens.numel(),
            prepend_bos=False,
            device="cpu",
            seqpos_slice=(rows.first_position, None),
        )
