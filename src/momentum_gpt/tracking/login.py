"""Whether a W&B server can be used."""

from __future__ import annotations

import netrc
import os
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SERVER_ANSWERS_WITHIN = 3.0
"""Seconds that a W&B server has to answer its first request; after that the run is offline."""


def server_and_login() -> tuple[str, bool]:
    """Return the address of the W&B server, and whether there is a key for it."""
    import wandb

    return wandb.setup().settings.base_url, is_logged_in(wandb)


def is_logged_in(wandb: Any) -> bool:
    """Return whether there is a key for the W&B server: in the environment, netrc or settings."""
    settings = wandb.setup().settings
    if os.environ.get("WANDB_API_KEY") or settings.api_key:
        return True

    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = urlsplit(settings.base_url).hostname
    try:
        return netrc.netrc(file).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wait_for_server(url: str) -> None:
    """Raise an OSError unless there is some answer: whether it is a good one, the client sees."""
    with suppress(urllib.error.HTTPError):
        urllib.request.urlopen(url, timeout=SERVER_ANSWERS_WITHIN).close()
