"""A model on the hub: its name, its config and tokenizer at one commit, and what went wrong.

What is fetched lies where `huggingface_hub` keeps it, so other programs share it, and a model
that was fetched once starts without a network.
"""

import errno
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  httpx's or httpx2's, as versions go
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from shared.errors import ModelError

TEXT_FILES = ["*.json", "*.jinja", "tokenizer.model", "*.txt"]
"""What every process needs of a model: its config, its tokenizer, its index of weights."""

NetworkError: type[Exception] = HTTPError
"""The root of what is raised when a connection fails, breaks or stalls."""

_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class HubModel:
    """A model on the hub; `revision` is a branch, a tag or a commit."""

    repo: str
    revision: str = constants.DEFAULT_REVISION

    @classmethod
    def parse(cls, text: str) -> "HubModel | None":
        """The model that `OWNER/NAME` or `OWNER/NAME@REVISION` names."""
        match = _ID.fullmatch(text)
        return cls(match[1], match[2] or cls.revision) if match else None

    def __str__(self) -> str:
        return self.repo if self.revision == HubModel.revision else f"{self.repo}@{self.revision}"


def fetch_text(model: HubModel) -> Path:
    """The directory of a model's config and tokenizer, named after its commit.

    Raises ModelError.
    """
    try:
        return Path(
            snapshot_download(
                model.repo,
                revision=model.revision,
                allow_patterns=TEXT_FILES,
                ignore_patterns="*/*",
                tqdm_class=_Silent,
            )
        )
    except (OSError, HFValidationError, NetworkError) as error:
        raise hub_error(model, error) from error


def hub_error(model: HubModel, error: Exception) -> ModelError:
    """What went wrong with the hub, and what to do about it, in one sentence."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    match error:
        case GatedRepoError():
            what = (
                "is gated: accept its terms on its page, then log in with `hf auth login` or set "
                "HF_TOKEN"
            )
        case RepositoryNotFoundError():
            what = (
                "is not on the hub, or is private: check the name, or log in with `hf auth login`"
            )
        case RevisionNotFoundError():
            what = f"has no revision {model.revision}: name a branch, a tag or a commit"
        case HFValidationError():
            what = f"is no hub id: {_first_line(error)}"
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            what = (
                f"may not be read (HTTP {error.response.status_code}): check the name, or log in "
                "with `hf auth login`"
            )
        case HfHubHTTPError():
            what = f"cannot be had now: the hub answered {error.response.status_code}; try later"
        case OfflineModeIsEnabled():
            what = "is not all in the cache, and HF_HUB_OFFLINE forbids fetching"
        case LocalEntryNotFoundError() | HTTPError():
            what = (
                "is not all in the cache, and the hub cannot be reached "
                f"({_first_line(error)}): check the network"
            )
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"does not fit on the disk of {cache()}: free some space or move HF_HOME"
        case OSError() if error.errno is not None:
            what = f"cannot be kept in {cache()} ({error.strerror}): move HF_HOME"
        case _:
            what = f"cannot be fetched ({_first_line(error)}); check the network and try again"
    return ModelError(f"model {model} {what}")


def cache() -> Path:
    """Where `huggingface_hub` keeps what it fetches."""
    return Path(constants.HF_HUB_CACHE)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Silent(tqdm):
    """No progress bar: these files are small."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options | {"disable": True})  # pyright: ignore
