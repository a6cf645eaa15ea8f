"""Fetches a span's weights from the hub: the byte ranges of its tensors and nothing else.

Ranges rather than whole files, because a volunteer with 4 of 80 blocks should fetch a twentieth of
the model, also where it is one file or where a file of 5 GB holds three blocks. They lie in
`parts/COMMIT` beside the hub cache's own snapshots (a file with holes must not be taken for a
whole one by others who share that cache); a file that the cache holds whole is used as it is.
A commit never changes, so what is here is never asked for again: a killed worker resumes, and a
worker that changes its span fetches the difference. With all of it here no network is needed.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from shared.errors import ModelError
from shared.hub import HubModel, NetworkError, hub_error
from shared.swarm import Span
from worker.partial import ByteRange, PartialFile, num_bytes, pieces
from worker.weights import INDEX, SINGLE, load_config, needed_tensors, read_header

PIECE_BYTES = 32 << 20
"""Bytes asked for in one request: 140 GB are some 4,000 requests, which no rate limit minds."""

BLOCK_BYTES = 4 << 20
"""Bytes kept at a time: what a kill costs, for each connection."""

CONNECTIONS = 4
STALL_SECONDS = 30.0
TRIES = 6
"""Rounds in a row that bring not one block, before the network counts as down."""

PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 8.0

HEADER_GUESS_BYTES = 256 << 10
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
PASSING = (408, 429, 500, 502, 503, 504)
"""HTTP statuses that may be gone when asked again."""

OnProgress = Callable[[int, int], None]
"""Told how many bytes of the span are here, and how many it has."""


def fetch_span(model: HubModel, snapshot: Path, span: Span, on_progress: OnProgress) -> Path:
    """A directory that `load_span` takes, with config and weights of a model on the hub.

    `snapshot` is where `fetch_text` put the config. Raises ModelError.
    """
    parts = Parts(model, snapshot)
    try:
        parts.link_snapshot()
        load_config(parts.directory)  # a family that is not served is refused at no cost
        if not (parts.directory / INDEX).exists():
            parts.fetch_header(SINGLE)
        needed = needed_tensors(parts.directory, span)
        parts.fetch_tensors(needed, span, on_progress)
    except (OSError, NetworkError) as error:
        raise hub_error(model, error) from error
    return parts.directory


class Parts:
    """The directory of one model's files at one commit, of which some have holes."""

    def __init__(self, model: HubModel, snapshot: Path) -> None:
        self.directory = snapshot.parents[1] / "parts" / snapshot.name
        self._model = model
        self._snapshot = snapshot

    def link_snapshot(self) -> None:
        """Point at every file that the hub cache holds whole."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.directory) as scratch:
            for path in self._snapshot.iterdir():
                link = Path(scratch) / path.name
                link.symlink_to(path.absolute())
                link.replace(self.directory / path.name)

    def fetch_header(self, name: str) -> None:
        """Fetch the part of a safetensors file that says where its tensors are."""
        if self._is_whole(name):
            return
        partial = PartialFile(self.directory / name)
        length = ByteRange(0, 8)
        if partial.missing([length]):
            try:
                _persist(lambda: self._begin(name, partial))
            except EntryNotFoundError as error:
                raise self._without(name) from error
        size = int.from_bytes(partial.read(length), "little")
        if size > MAX_HEADER_BYTES:
            raise ModelError(f"model {self._model}: {name} is no safetensors file")
        self._fetch([(name, partial, [ByteRange(0, 8 + size)])], lambda done, total: None)

    def fetch_tensors(self, needed: dict[str, str], span: Span, on_progress: OnProgress) -> None:
        """Fetch the tensors of a weight map, wherever they are not here yet."""
        wanted: list[tuple[str, PartialFile, list[ByteRange]]] = []
        for name in sorted(set(needed.values())):
            if self._is_whole(name):
                continue
            self.fetch_header(name)
            header = read_header(self.directory / name)
            partial = PartialFile(self.directory / name)
            start = 8 + int.from_bytes(partial.read(ByteRange(0, 8)), "little")
            offsets = [header[key]["data_offsets"] for key in header if needed.get(key) == name]
            ranges = [ByteRange(start + begin, start + end) for begin, end in offsets]
            wanted.append((name, partial, ranges))
        self._check_room(span, sum(num_bytes(p.missing(ranges)) for _, p, ranges in wanted))
        self._fetch(wanted, on_progress)

    def _without(self, name: str) -> ModelError:
        """Why a model that lacks a file cannot be loaded."""
        if name != SINGLE:
            return ModelError(f"model {self._model} lacks {name}, which its {INDEX} names")
        files = HfApi().list_repo_files(self._model.repo, revision=self._snapshot.name)
        pickles = sorted(file for file in files if file.endswith(PICKLES))
        why = f"; {pickles[0]} is a pickle, which is never loaded" if pickles else ""
        return ModelError(
            f"model {self._model} has no {SINGLE} nor {INDEX}{why}: choose one in safetensors"
        )

    def _is_whole(self, name: str) -> bool:
        return (self._snapshot / name).exists()

    def _check_room(self, span: Span, num_missing: int) -> None:
        free = shutil.disk_usage(self.directory).free
        if num_missing > free:
            raise ModelError(
                f"model {self._model}: blocks {span} need {num_missing / 1e9:.1f} GB more on the "
                f"disk of {self.directory}, which has {free / 1e9:.1f} GB free: free some space "
                "or move HF_HOME"
            )

    def _begin(self, name: str, partial: PartialFile) -> None:
        """Learn how long a file is, and fetch its first bytes."""
        with self._get(name, ByteRange(0, HEADER_GUESS_BYTES)) as response:
            _check_response(response)
            data = response.read()
            partial.create(int(response.headers["Content-Range"].rpartition("/")[2]))
            partial.write(0, data)

    def _fetch(
        self,
        wanted: list[tuple[str, PartialFile, list[ByteRange]]],
        on_progress: OnProgress,
    ) -> None:
        """Fetch all that is missing, over a few connections."""
        total = sum(num_bytes(ranges) for _, _, ranges in wanted)

        def num_missing() -> int:
            return sum(num_bytes(partial.missing(ranges)) for _, partial, ranges in wanted)

        def fetch_missing() -> None:
            stop = Event()

            def fetch(name: str, partial: PartialFile, piece: ByteRange) -> None:
                for _ in self._receive(name, partial, piece, stop):
                    on_progress(total - num_missing(), total)

            with ThreadPoolExecutor(CONNECTIONS) as pool:
                futures = [
                    pool.submit(fetch, name, partial, piece)
                    for name, partial, ranges in wanted
                    for piece in pieces(partial.missing(ranges), PIECE_BYTES)
                ]
                try:
                    for future in futures:
                        future.result()
                except NetworkError:
                    raise  # the other connections may end what they have begun
                except BaseException:
                    stop.set()
                    raise
                finally:
                    pool.shutdown(cancel_futures=True)

        on_progress(total - num_missing(), total)
        _persist(fetch_missing, num_missing)

    def _receive(
        self, name: str, partial: PartialFile, piece: ByteRange, stop: Event
    ) -> Iterator[int]:
        """Fetch one piece, yielding after every block that is kept."""
        position = piece.start
        with self._get(name, piece) as response:
            _check_response(response)
            if not response.headers["Content-Range"].startswith(
                f"bytes {piece.start}-{piece.end - 1}/"
            ):
                raise ModelError(f"the hub answered with other bytes of {name} than were asked for")
            for data in response.iter_bytes(BLOCK_BYTES):
                if stop.is_set() or position + len(data) > piece.end:
                    return
                partial.write(position, data)
                position += len(data)
                yield position

    def _get(self, name: str, part: ByteRange) -> AbstractContextManager[Any]:
        return get_session().stream(
            "GET",
            hf_hub_url(self._model.repo, name, revision=self._snapshot.name),
            headers=build_hf_headers()
            | {"Range": f"bytes={part.start}-{part.end - 1}", "Accept-Encoding": "identity"},
            timeout=STALL_SECONDS,
        )


def _check_response(response: Any) -> None:
    """Raises what huggingface_hub raises for an HTTP error; ModelError for a whole file."""
    hf_raise_for_status(response)
    if response.status_code != 206:
        raise ModelError("the hub does not serve parts of files; use a directory as --model")


def _persist(work: Callable[[], None], num_missing: Callable[[], int] = lambda: 0) -> None:
    """Do work on the network, and again after a pause as long as failures are passing ones.

    Raises the last error after TRIES rounds in a row that brought nothing.
    """
    tries = 0
    while True:
        before = num_missing()
        try:
            return work()
        except NetworkError as error:
            tries = 1 if num_missing() < before else tries + 1
            if tries >= TRIES or not _may_pass(error):
                raise
            time.sleep(min(PAUSE_SECONDS * 2 ** (tries - 1), MAX_PAUSE_SECONDS))


def _may_pass(error: Exception) -> bool:
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in PASSING
