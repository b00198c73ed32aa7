"""Files of the Hugging Face hub: only when asked for, from the cache where they are there, never waiting for long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtl_med.errors import ModelError

__all__ = ["SCHEME", "fetch"]

SCHEME = "hf://"
TIMEOUT_S = 10.0


def fetch(address: str) -> Path:
    """Local copy of a file of the hub.

    The cache comes first, so that a file which was fetched once needs no network. Mirrors, cache folder and offline
    mode are set as everywhere: HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE=1.

    Args:
        address: `hf://owner/repository/file`, or `hf://owner/repository@revision/file`.

    Raises:
        ModelError: a malformed address, huggingface_hub is not installed, or the file cannot be fetched.
    """
    owner, _, rest = address.removeprefix(SCHEME).partition("/")
    name, _, filename = rest.partition("/")
    name, _, revision = name.partition("@")
    if not (owner and name and filename):
        raise ModelError("is no address of a file", where=address, fix=f"Write {SCHEME}owner/repository/file")
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ModelError(
            "huggingface_hub is not installed",
            where=address,
            fix="pip install 'mtl_med[pretrained]', or download the file otherwise and give its path",
        ) from error
    file: dict[str, Any] = {"repo_id": f"{owner}/{name}", "filename": filename, "revision": revision or None}
    try:
        try:
            return Path(hub.hf_hub_download(**file, local_files_only=True))
        except FileNotFoundError:  # not in the cache
            pass
        # Where there is no network, a download tries again for minutes; this asks once.
        hub.get_hf_file_metadata(hub.hf_hub_url(**file), timeout=TIMEOUT_S)
        return Path(hub.hf_hub_download(**file))
    except Exception as error:
        raise ModelError(
            f"cannot be fetched ({type(error).__name__})",
            where=address,
            fix="Check the address and the network, or download the file on another machine and give its path",
        ) from error
