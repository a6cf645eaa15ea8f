"""`brigade identity` makes a key once, and says who it makes one."""

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.identity import Identity
from shared.identity_command import main


def test_the_key_is_made_once_and_its_peer_id_is_all_that_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "keys" / "bootstrap-0"
    assert main(["--file", str(file)]) == 0
    first = capsys.readouterr().out
    assert main(["--file", str(file)]) == 0
    assert capsys.readouterr().out == first == f"{Identity.load_or_create(file).peer}\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_holds_no_key_is_left_alone(tmp_path: Path):
    file = tmp_path / "notes"
    file.write_text("buy milk")
    with pytest.raises(ConfigError, match="is not 64 hex digits"):
        main(["--file", str(file)])
    assert file.read_text() == "buy milk"
