"""Files of releases in SAELens's list that lie in the hub's cache beside the weights."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from sae_lens.loading.pretrained_saes_directory import get_repo_id_and_folder_name


def cached_files(reference: str, names: tuple[str, ...]) -> list[Path]:
    """Return those of the named files of ``release:sae_id`` that the hub's cache holds; the network is not asked."""
    release, _, sae_id = reference.partition(":")
    try:
        repo_id, folder = get_repo_id_and_folder_name(release, sae_id)
        found = [try_to_load_from_cache(repo_id, f"{folder}/{name}") for name in names]
    except (ValueError, HFValidationError):
        return []
    return [Path(path) for path in found if isinstance(path, str)]
