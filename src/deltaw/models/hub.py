"""Hub models at a revision: NAME@REVISION is fetched once, and its directory stands for it."""

import importlib
import importlib.util
import re
from pathlib import Path

from deltaw.errors import DeltawError

PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.tiktoken", "merges.txt", "vocab.txt"]


def at_revision(source: str, revision: str | None) -> str:
    """The source itself, or the directory of a hub model at its revision.

    source: a directory or a hub name, with @REVISION if it is not `revision` that counts. A directory has no revision
    and stands for itself. DeltawError if a revision is given and cannot be fetched.
    """
    if Path(source).exists():
        return source
    name, at, own = source.partition("@")
    wanted = own or revision
    if at and not own:
        raise DeltawError(f"{source} names no revision; give NAME@REVISION, or NAME")
    if wanted is None:
        return source
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise DeltawError(f"{name} does not exist; a revision is of a hub name, such as org/model")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise DeltawError(
            f"{name} is not a directory; to fetch it from the Hugging Face hub, install the extra: "
            "pip install 'deltaw[hf]'"
        )
    hub = importlib.import_module("huggingface_hub")
    try:
        return str(hub.snapshot_download(name, revision=wanted, allow_patterns=PATTERNS))
    except Exception as error:  # of the network, the hub, or the disk
        why = " ".join(str(error).split())[:300]
        raise DeltawError(
            f"{name} at the revision {wanted} cannot be fetched from the hub ({type(error).__name__}: {why})"
        ) from error
