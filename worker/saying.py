"""What a worker tells the volunteer who started it."""


def say(text: str) -> None:
    """Print it, at once."""
    print(f"worker: {text}", flush=True)
