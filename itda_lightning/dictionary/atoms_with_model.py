"""Give a dictionary the methods that need its model, its text or the hub; the rooms above do their work."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from itda_lightning.dictionary.described_atoms import DescribedAtoms
from itda_lightning.machine.late_work import work_of

# A dictionary -> what its data were made from, and its data; None for data of a model that the user gave.
READ_BY: WeakKeyDictionary[Any, tuple[str | None, Any]] = WeakKeyDictionary()


class AtomsWithModel(DescribedAtoms):
    """Described atoms that can be looked at in text, by the language model and the text that the metadata name.

    The model is loaded once, and kept as long as the dictionary.
    """

    def decompose(self, text: str, positions: Sequence[int] | int | None = None, *, device: str = "auto") -> Any:
        """Explain a text token by token as sums of atoms, as the command ``decompose`` does.

        Args:
            text: any text; the language model of the metadata reads it.
            positions: one token of the text or several, counted from 0 or, if negative, from the end; None for all that
                the fit read.
            device: where the language model runs: auto, cpu, cuda or cuda:N.

        Returns:
            A sequence of tokens, each with ``token``, ``position``, ``norm`` and ``unexplained`` (of ``x - bias``), and
            ``atoms``: per atom its index, label, coefficient and share of ``|x - bias|^2``, the largest coefficient
            first. It prints, shows itself in a notebook, and has ``to_json()``.

        Raises:
            InputError: a text without tokens or too long for the model, a position outside of it, a dictionary without
                a model, a model that cannot be loaded.

        Example:
            >>> import itda_lightning as il
            >>> # dictionary.decompose("The Senate ratified the treaty of peace")[-1].atoms[0].label
        """
        return work_of("decompose")(self, text, positions, device)

    def top_contexts(
        self, atom: int, n: int = 10, *, texts: Any = None, by: str = "cosine", device: str = "auto"
    ) -> Any:
        """Find the tokens at which an atom is strongest, in the text that the fit held out or in other texts.

        Args:
            atom: its index.
            n: how many tokens, at most.
            texts: a list of documents, a Dataset or a path to look in; None for the held-out text of the fit, which is
                read from the cache of its activations if there is one.
            by: "cosine" (``detect``: where the atom's meaning is) or "coefficient" (``encode``: where it is used).
            device: where the language model runs: auto, cpu, cuda or cuda:N.

        Returns:
            A sequence of contexts, each with ``strength`` and ``prompt``, the strongest first; those of strength 0 are
            left out. It prints, and shows itself in a notebook.

        Raises:
            InputError: no such atom; a dictionary without a model or without text, if there are no ``texts``.

        Example:
            >>> import itda_lightning as il
            >>> # dictionary.top_contexts(12, n=5)[0].prompt.token
        """
        return work_of("top_contexts")(self, atom, n, texts, by, device)

    def typical_coefficient(self, atom: int, x: Tensor | None = None) -> float:
        """Return the median ``|coefficient|`` of an atom over the activations that use it; 0 for one that none uses.

        Args:
            atom: its index.
            x: (..., d) activations to measure on; None for the held-out ones of the fit, which are encoded once.

        Raises:
            InputError: no such atom; no ``x`` for a dictionary without held-out activations.

        Example:
            >>> import torch
            >>> import itda_lightning as il
            >>> dictionary = il.Dictionary(torch.eye(4), k=1)
            >>> dictionary.typical_coefficient(2, torch.eye(4) * torch.tensor([1.0, 2.0, 3.0, 4.0]))
            3.0
        """
        return float(work_of("typical_coefficient")(self, atom, x))

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, prompts: bool = True, text_licence: str | None = None
    ) -> str:
        """Upload this dictionary to the Hugging Face hub: its files, exports for SAELens and a model card.

        Local paths are left out. Whoever may read the repository loads it by ``il.load_dictionary("hf://owner/name")``
        or by SAELens's ``SAE.from_pretrained``.

        Args:
            repo_id: such as "owner/name"; made if there is none.
            private: who may read it: False for all. A repository that is there already must be so.
            prompts: False leaves out the text of all prompts; of each its SHA-256 stays.
            text_licence: licence of the text that the prompts are from, for the card.

        Returns:
            The address of the repository.

        Raises:
            InputError: no such owner, no rights, no network, a public repository where a private one is meant.

        Example:
            >>> import itda_lightning as il
            >>> # dictionary.push_to_hub("owner/name", prompts=False)
        """
        return str(work_of("push_to_hub")([self], repo_id, private, prompts, text_licence))
