"""`brigade identity`: make a private key ahead of its process, and say who it makes one."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from shared.commands import FilePath, parse, settings_config
from shared.identity import Identity

EPILOG = """\
examples:
  brigade identity --file keys/bootstrap-0       prints 12D3Koo..., the end of a node's address
"""


class IdentitySettings(BaseSettings):
    """Make a private key, unless the file holds one, and print its peer id and nothing else."""

    model_config = settings_config("IDENTITY_")

    file: FilePath = Field(
        Path("~/.bucket-brigade/bootstrap.key"),
        validate_default=True,
        description="file of the private key; made if it is not there",
    )


def main(argv: list[str]) -> int:
    """Print the peer id; returns the exit status. Raises ConfigError when the file is unusable."""
    settings = parse(IdentitySettings, argv, prog="brigade identity", epilog=EPILOG)
    print(Identity.load_or_create(settings.file).peer)
    return 0
