"""The models this gateway serves, by the names clients ask for."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.generator import Generator
from gateway.keys import Caller
from gateway.plain_text import PlainText
from gateway.text import ChatText
from shared.errors import ConfigError, RequestError
from shared.swarm import ModelSpec


@dataclass(frozen=True)
class ServedModel:
    """One model: its text, whatever makes its tokens, and how its part of the swarm does.

    `snapshot` is what /swarm shows, see api/status.py; `is_ready` is true, or the sentence that
    says why not; `created` is when the model was made, in seconds since the epoch.
    """

    spec: ModelSpec
    text: ChatText
    generator: Generator
    snapshot: Callable[[], dict[str, Any]]
    is_ready: Callable[[], bool | str]
    created: int

    @property
    def plain(self) -> PlainText:
        """Its text as it is, without a chat template."""
        return PlainText(self.text.backend)

    @property
    def fingerprint(self) -> str:
        """What a client may compare to see whether the same seed can give the same text."""
        return "fp_" + hashlib.sha256(self.spec.revision.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Models:
    """At least one model, the first of them the one that stands for the gateway.

    `aliases` are further names, each for the name of a model. Raises ConfigError when a name
    stands for two models, or for none.
    """

    served: Sequence[ServedModel]
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        names = [model.spec.name for model in self.served]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"two models are named {twice}; give each a name: --model-name")
        for alias, name in self.aliases.items():
            if name not in names:
                raise ConfigError(f"the alias {alias} stands for {name}, which is not served here")
            if alias in names:
                raise ConfigError(f"the alias {alias} is the name of a model that is served here")

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.served)

    @property
    def first(self) -> ServedModel:
        """The one that stands for the gateway where only one can."""
        return self.served[0]

    @property
    def names(self) -> dict[str, ServedModel]:
        """Every name there is, in the order in which they are listed."""
        by_name = {model.spec.name: model for model in self}
        return by_name | {alias: by_name[name] for alias, name in self.aliases.items()}

    @property
    def revisions(self) -> str:
        """What all gateways that serve the same models share."""
        return " ".join(sorted(model.spec.revision for model in self))

    def names_for(self, caller: Caller) -> dict[str, ServedModel]:
        """Every name that a caller may use."""
        named = self.names.items()
        return {name: model for name, model in named if caller.may_use(name, model.spec.name)}

    def find_for(self, caller: Caller, name: str) -> ServedModel:
        """The model a client asks for. Raises RequestError 404, or 403 when it is not for them."""
        model = self.find(name)
        if caller.may_use(name, model.spec.name):
            return model
        raise RequestError(
            f"You do not have access to the model `{name}`.",
            param="model",
            reason="model_access_denied",
            status=403,
        )

    def find(self, name: str) -> ServedModel:
        """The model a client asks for. Raises RequestError 404 when it is not served here."""
        if model := self.names.get(name):
            return model
        raise RequestError(
            f"The model `{name[:256]}` does not exist or you do not have access to it.",
            param="model",
            reason="model_not_found",
            status=404,
        )
