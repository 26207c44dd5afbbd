"""The language model that writes and scores explanations: any server with OpenAI's protocol, also a local one."""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from itda_lightning.errors import InputError

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Judge:
    """The address and the model of a judge.

    Attributes:
        base_url: the address under which ``chat/completions`` lies, such as ``http://localhost:8000/v1``.
        model: the model's name there.
        key_variable: the environment variable that holds the key; keys are never given as arguments, which end up in
            logs.

    Raises:
        InputError: no address or one that is not of http, or no model.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InputError(
                f"a judge needs an address of http or https, such as http://localhost:8000/v1, got {self.base_url!r}"
            )
        if not self.model:
            raise InputError(f"which model of {self.base_url} is to judge? name it")

    def key(self) -> str:
        """Return the key; local servers need none, but get one if the variable is set.

        Raises:
            InputError: a server elsewhere, and the variable is not set.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if not key and urlsplit(self.base_url).hostname not in LOCAL_HOSTS:
            raise InputError(
                f"the judge at {self.base_url} needs a key, but the environment variable {self.key_variable} is not "
                "set: set it, name another one, or use a judge on this machine"
            )
        return key or "none"
