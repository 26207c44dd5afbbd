"""Several language models compared: layer by layer, as whole dictionaries, and atom by atom.

Three studies, one per command. Read their files in this order:

- ``similarity``: ``similarity_settings``, ``compared_models`` (data and dictionaries of every model), ``alignment``
  (the tokens that all models have, and the activations there), ``site_matrix`` (one measure of all pairs of hook
  points), ``representation_comparison`` (by activations), ``source_sets``, ``regrowth``, ``dictionary_comparison`` (by
  sources), ``similarity_study``.
- ``transfer``: ``source_activations`` (prompts of a dictionary's sources read by any model), ``transfer_study``.
- ``diff``: ``source_activations``, ``diffing``.

``aligned_arrays`` gives the activations that several models have in common, for a joint dictionary.
"""
