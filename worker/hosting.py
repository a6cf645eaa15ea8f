"""What a worker was told to host, as far as that is known without torch."""

from shared.errors import ConfigError
from shared.model_files import locate, name_of, read_spec
from shared.swarm import ModelSpec, Span
from worker.settings import WorkerSettings


def spec_of(settings: WorkerSettings) -> ModelSpec:
    """What is known of the model without its weights. Raises ModelError."""
    return read_spec(locate(settings.model), settings.model_name or name_of(settings.model))


def hosted_span(text: str, spec: ModelSpec) -> Span:
    """The blocks a worker was told to host. Raises ConfigError when the model has them not."""
    if text == "all":
        return spec.blocks
    span = Span.parse(text)
    if not spec.blocks.covers(span):
        raise ConfigError(f"--blocks {text}: {spec.name} has blocks {spec.blocks}")
    return span
