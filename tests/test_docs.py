"""README and `.env.example` are held to account: they name what exists, as it is.

`make docs` writes the generated parts anew.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from gateway.keys_command import KeysSettings
from gateway.settings import GatewaySettings
from shared.bootstrap import BootstrapSettings
from shared.brigade import COMMANDS
from shared.commands import Setting, settings_of
from shared.doctor_settings import WorkerDoctor
from shared.identity_command import IdentitySettings
from shared.plan import PlanSettings
from shared.status import StatusSettings
from shared.up import UpSettings
from worker.families import State
from worker.models import WORDS, Found, ModelsSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ENV_EXAMPLE = ROOT / ".env.example"
CLASSES: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "keys": KeysSettings,
    "worker": WorkerSettings,
    "bootstrap": BootstrapSettings,
    "up": UpSettings,
    "models": ModelsSettings,
    "status": StatusSettings,
    "plan": PlanSettings,
    "doctor": WorkerDoctor,
    "identity": IdentitySettings,
}
IN_README = {
    "gateway": "model host port join swarm keys_file checkpoint_bytes standby resume_store",
    "worker": "model blocks join host port public_url tls kv_tokens",
}


def env_example() -> str:
    """Every setting, commented, at its default."""
    sections = [
        f"# brigade {name}\n\n" + "\n".join(f"{_commented(s)}\n" for s in settings_of(settings))
        for name, settings in CLASSES.items()
        if name != "doctor"  # it reads the variables of the command it looks after
    ]
    return (
        "# Settings of all commands: copy to .env and uncomment what you change.\n"
        "# Lists take commas or JSON. Options on the command line win over this file.\n"
        "# Written by `make docs`.\n\n" + "\n".join(sections)
    )


def settings_table() -> str:
    """README's table: the settings most people touch."""
    rows = [
        f"| `{setting.variable}` | {_code(setting.default)} | {setting.description} |"
        for command, names in IN_README.items()
        for setting in _chosen(settings_of(CLASSES[command]), names.split())
    ]
    return "\n".join(["| variable | default | |", "| --- | --- | --- |", *rows, ""])


def _chosen(settings: Sequence[Setting], names: Sequence[str]) -> list[Setting]:
    by_name = {setting.name: setting for setting in settings}
    return [by_name[name] for name in names]


def _commented(setting: Setting) -> str:
    return f"# {setting.description}\n# {setting.variable}={setting.default}"


def _code(default: str) -> str:
    return f"`{default}`" if default else ""


def families_table() -> str:
    """README's other table: the families that are served, and how many are not."""
    found = Found.load()
    by_state: dict[State, list[str]] = {state: [] for state in WORDS}
    for family, verdict in found.families.items():
        by_state[verdict.state].append(family)
    rows = [
        f"| {word}, {len(by_state[state])} | {', '.join(by_state[state])} |"
        for state, word in WORDS.items()
    ]
    header = f"| transformers {found.transformers} | `model_type` in `config.json` |"
    return "\n".join([header, "| --- | --- |", *rows, ""])


def _between(page: str, part: str) -> tuple[str, str, str]:
    """A page up to a generated part, that part, and the rest."""
    begin, end = f"<!-- {part}: written by `make docs` -->\n", f"<!-- end of {part} -->"
    before, _, rest = page.partition(begin)
    table, _, after = rest.partition(end)
    return before + begin, table, end + after


def test_env_example_holds_every_setting_at_its_default():
    assert ENV_EXAMPLE.read_text() == env_example()


def test_readme_s_table_equals_the_settings_classes():
    assert _between(README.read_text(), "settings")[1] == settings_table()


def test_readme_s_families_are_what_the_self_test_found():
    assert _between(README.read_text(), "families")[1] == families_table()


def test_readme_fits_in_200_lines():
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize("command", CLASSES)
def test_every_setting_says_what_it_is(command: str):
    assert all(setting.description for setting in settings_of(CLASSES[command]))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "k8s/README.md"])
def test_pages_name_only_make_targets_that_exist(page: str):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", _code_in((ROOT / page).read_text())))
    assert named <= targets


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "k8s/README.md"])
def test_pages_name_only_commands_and_options_that_exist(page: str):
    for line in re.findall(r"\bbrigade [a-z-].*", _code_in((ROOT / page).read_text())):
        command = line.split()[1]
        assert command in COMMANDS, line
        options = {setting.option for setting in settings_of(CLASSES[command])} | {"--help"}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= options, line


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "k8s/README.md"])
def test_links_between_pages_lead_somewhere(page: str):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_test_that_security_md_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    for path, test in named:
        source = (ROOT / path).read_text()
        assert not test or re.search(rf"^(?:async )?def {test}\(", source, re.MULTILINE), test


def _code_in(markdown: str) -> str:
    """What stands in backticks or in fences, a line each."""
    fences = re.findall(r"^```\w*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    joined = "\n".join([*fences, *re.findall(r"`([^`\n]+)`", prose)])
    return joined.replace("\\\n", " ")


def write() -> None:
    """Write the generated parts anew."""
    ENV_EXAMPLE.write_text(env_example())
    for part, table in (("settings", settings_table()), ("families", families_table())):
        before, _, after = _between(README.read_text(), part)
        README.write_text(before + table + after)


if __name__ == "__main__":
    write()
