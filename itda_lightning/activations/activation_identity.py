"""Identify activations: two identities are equal exactly if the activations are the same."""

from typing import NamedTuple


class ActivationIdentity(NamedTuple):
    """All that decides what activations are; paths, devices and the language model's batches do not.

    Caches, checkpoints of fits and rows of comparisons are found again by it.

    Attributes:
        model: fingerprint of the language model.
        loader, model_dtype: how it is loaded, and the dtype of its weights and computation.
        cache_dtype: dtype in which activations are stored; float32 without a cache.
        hook_names: the hook points.
        dataset: fingerprint of the documents.
        rows: fingerprint of the rows of tokens.
    """

    model: str
    loader: str
    model_dtype: str
    cache_dtype: str
    hook_names: list[str]
    dataset: str
    rows: str

    def without_text(self) -> dict[str, str]:
        """Return what decides the activations of any rows at any hook point, by name."""
        return {name: getattr(self, name) for name in ("model", "loader", "model_dtype", "cache_dtype")}
