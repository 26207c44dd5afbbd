"""The data of one of several models: its own rows, or the text of another model's rows in its own tokens."""

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.skeleton import config_of
from itda_lightning.activations.text.retokenisation import retokenise
from itda_lightning.activations.text.split import Split

LONGEST = 2**31


class SameText(ActivationsDataModule):
    """An ``ActivationsDataModule`` that can be told to read what another one reads.

    The arguments are those of ``ActivationsDataModule``.
    """

    def read_the_text_of(self, other: "SameText", split: Split) -> None:
        """Read in this split the text of the other's rows, row by row, cut into tokens by this model's own tokenizer.

        With the same tokenizer these are the same rows. What is longer than this model reads is cut off. To be called
        before the split is read.

        Raises:
            InputError: as ``retokenise``, or a model without a configuration.
        """
        self._rows[split] = retokenise(
            other.cached_rows(split),
            other.tokenizer,
            self.tokenizer,
            prepend_bos=other.hparams["prepend_bos"],
            longest=self._longest_context(),
        )

    def _longest_context(self) -> int:
        """Tokens that the language model reads at most, as far as its files say, which its weights are not needed for."""
        config = config_of(self.model_name.path_or_hub_name(), self.model_name.revision).get_text_config()
        # Of a tokenizer that does not know it, `transformers` says 10^30.
        told = (getattr(self.tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None))
        return min(LONGEST, *(limit for limit in told if limit is not None))

    def read_hardly_any_training_text(self) -> None:
        """Read the one row that there must be, where no dictionary is compared. To be called before the split is read."""
        self.hparams.update(training_tokens=self.hparams["context_size"], first_tokens=None)
