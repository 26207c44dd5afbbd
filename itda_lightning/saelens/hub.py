"""Repositories of the Hugging Face hub: made, filled and read by its own client, whose errors become one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from itda_lightning.errors import InputError

SCHEME = "hf:"
NO_RIGHTS = (401, 403)


def is_repository(path: str | Path) -> bool:
    """Return True for a path of the form hf://owner/name."""
    return str(path).startswith(SCHEME)


def download(path: str | Path, patterns: list[str]) -> Path:
    """Download files of hf://owner/name or hf://owner/name@revision into the hub's cache and return their directory.

    Raises InputError for a name of another form, a repository that is not there or may not be read, or no network.
    """
    repo_id, _, revision = str(path).removeprefix(SCHEME).strip("/").partition("@")
    if repo_id.count("/") != 1:
        raise InputError(f"{path} is no repository of the hub: give hf://owner/name, with @revision for another one")
    with hub_errors(repo_id, "read"):
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=patterns))


def make_repository(repo_id: str, private: bool) -> None:
    """Make a repository unless it is there.

    Raises InputError if it is there and not ``private`` as given, if this account may not write, or without network.
    """
    api = HfApi()
    with hub_errors(repo_id, "write to"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        is_private = bool(api.repo_info(repo_id).private)
    if is_private != private:
        here, other = ("private", "public") if is_private else ("public", "private")
        raise InputError(
            f"the repository {repo_id} is {here} and private={private} was asked for: make it {other} on the hub, or "
            f"give private={is_private}"
        )


def upload_directory(directory: Path, repo_id: str, message: str) -> str:
    """Upload the files of a directory in one commit and return the repository's address. Raises InputError as above."""
    api = HfApi()
    with hub_errors(repo_id, "write to"):
        api.upload_folder(repo_id=repo_id, folder_path=directory, commit_message=message)
    return f"{api.endpoint}/{repo_id}"


@contextmanager
def hub_errors(repo_id: str, action: str) -> Iterator[None]:
    """Turn what the hub's client raises into an InputError with the remedy."""
    try:
        yield
    except InputError:
        raise
    except OfflineModeIsEnabled as error:
        raise InputError(f"cannot {action} {repo_id}: the hub is switched off, unset HF_HUB_OFFLINE") from error
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is not the name of a repository ({_line(error)}): give owner/name") from error
    except LocalTokenNotFoundError as error:
        raise InputError(f"cannot {action} {repo_id}: nobody is logged in, run `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise InputError(f"the repository {repo_id} has no such revision: give a branch, tag or commit") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if isinstance(error, RepositoryNotFoundError) or status in NO_RIGHTS:
            raise InputError(
                f"cannot {action} {repo_id}: there is no such repository or owner, or this account has no rights to it "
                f"(HTTP {status}); check the spelling, or log in by `hf auth login` with a token that may"
            ) from error
        raise InputError(
            f"cannot {action} {repo_id}: the hub answers HTTP {status} ({_line(error)}); try later"
        ) from error
    except Exception as error:  # what the client raises without a connection, of several libraries
        missing = isinstance(error, EntryNotFoundError) or "offline" in str(error).lower()
        remedy = "it is not in the cache and the hub cannot be reached" if missing else _line(error)
        raise InputError(f"cannot {action} {repo_id}: {remedy}; check the network ({type(error).__name__})") from error


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
