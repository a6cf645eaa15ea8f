"""The images build from nothing, and a swarm of them answers: by nobody, on roots not written to.

Slow, and only where Buildah is; images.py says what this shows and what it does not.
"""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.k8s.images import Images, missing
from tests.swarm.processes import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(missing()), reason=f"cannot build images here: {missing()}"),
]
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
START_SECONDS = 240

Serve = Callable[..., "Served"]


class Served:
    """A process in an image, and the lines it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def line(self, text: str) -> str:
        """The first line with `text` in it, waited for."""

        def found() -> list[str]:
            assert self.process.poll() is None or text in self.output, self.output
            return [line for line in self.lines if text in line]

        wait_until(found, START_SECONDS, f"{text!r} in {self.output}")
        return found()[0]

    @property
    def output(self) -> str:
        """All it printed so far."""
        return "\n".join(self.lines)

    def end(self) -> int:
        """Ask it to stop; its exit status."""
        self.process.terminate()
        code = self.process.wait(60)
        self._reader.join()
        return code

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """Both images, built."""
    images = Images(tmp_path_factory.mktemp("images") / "store")
    images.make_base()
    images.build("gateway")
    images.build("worker", f"--build-arg=TORCH_INDEX={CPU_TORCH}")
    yield images
    images.remove()


@pytest.fixture
def serve(images: Images) -> Iterator[Serve]:
    """Starts commands in images, and stops them."""
    started: list[Served] = []

    def start(image: str, *arguments: str, **environment: str) -> Served:
        started.append(Served(images.run(image, *arguments, **environment)))
        return started[-1]

    yield start
    for one in reversed(started):
        if one.process.poll() is None:
            one.end()


def output_of(images: Images, image: str, *arguments: str) -> tuple[int, str]:
    process = images.run(image, *arguments)
    output, _ = process.communicate(timeout=START_SECONDS)
    return process.returncode, output


def test_an_image_runs_brigade_as_nobody_on_a_root_that_cannot_be_written(images: Images):
    for image in ("gateway", "worker"):
        config = images.config(image)
        assert (config["User"], config["Entrypoint"]) == ("10001:10001", ["brigade"])
        assert config["Cmd"] == [image]
        assert output_of(images, image, "id", "-u") == (0, "10001\n")
        code, said = output_of(images, image, "touch", "/opt/brigade/x")
        assert (code, "Read-only file system" in said) == (1, True)
        code, said = output_of(images, image, "brigade", "--version")
        assert (code, said.startswith("brigade ")) == (0, True)
        code, said = output_of(images, image, "brigade", "--help")
        assert (code, "brigade gateway" in said) == (0, True)


def test_the_gateway_s_image_has_no_torch_and_no_compiler(images: Images):
    code, said = output_of(images, "gateway", "/opt/brigade/bin/python", "-c", "import torch")
    assert (code, "No module named 'torch'" in said) == (1, True)
    assert output_of(images, "gateway", "which", "gcc")[0] == 1


def test_the_doctor_finds_nothing_wrong_in_an_image(images: Images):
    for image in ("gateway", "worker"):
        code, said = output_of(
            images, image, "brigade", "doctor", image, "--host=127.0.0.1", "--port=0"
        )
        assert code == 0, said


def test_a_swarm_of_images_answers(images: Images, serve: Serve):
    local = "127.0.0.1"
    node = serve("gateway", "brigade", "bootstrap", "--port=0", BOOTSTRAP_HOST=local)
    join = node.line("bootstrap ready").partition(": ")[2]
    worker = serve("worker", "brigade", "worker", "--port=0", f"--join={join}", WORKER_HOST=local)
    worker.line("worker ready")
    gateway = serve(
        "gateway", "brigade", "gateway", "--port=0", f"--join={join}", GATEWAY_HOST=local
    )
    url = json.loads(gateway.line("gateway ready").partition(": ")[2])["url"]
    assert httpx.get(f"{url}/health", timeout=10).status_code == 200
    wait_until(
        lambda: httpx.get(f"{url}/ready", timeout=10).status_code == 200, 60, "every block covered"
    )
    answer = httpx.post(
        f"{url}/v1/chat/completions",
        json={"model": "brigade-tiny", "messages": [{"role": "user", "content": "Who are you?"}]},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    assert "Bucket Brigade" in answer.json()["choices"][0]["message"]["content"]
    assert [one.end() for one in (gateway, worker, node)] == [0, 0, 0]
