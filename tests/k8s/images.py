"""Images built without a Docker engine, and processes run in their roots.

Buildah reads the Dockerfiles as Docker does and runs each RUN in a chroot. The base image is made
by mmdebstrap from the packages that debian:bookworm-slim is made of, as no registry is asked; it
is a little larger, for it keeps manuals and translations. A process runs in the image's root as
its user, the root mounted read-only, /data and /tmp in memory: as in the manifests. It shares this
machine's network, and no limit of memory or CPU is set.
"""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "mmdebstrap", "unshare", "chroot")
BASE = "localhost/bookworm"
OPTIONS = "IMAGE_BUILD_OPTIONS"
"""The environment variable with more options for `buildah bud`: mirrors, certificates."""
ENTER = """
set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -t tmpfs -o uid=10001,gid=10001 tmpfs "$1/data"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
root=$1; user=$2; shift 2
exec chroot --userspec="$user" "$root" /usr/bin/env -i -C /data "$@"
"""


def missing() -> str:
    """What this machine lacks to build images; "" when nothing."""
    if os.geteuid() != 0:
        return "images are built by root alone"
    return ", ".join(tool for tool in TOOLS if not shutil.which(tool))


class Images:
    """A store of images and of the roots made of them."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._roots: dict[str, str] = {}

    def make_base(self) -> None:
        """Make the image that the others stand on."""
        archive = self._store.with_suffix(".tar")
        subprocess.run(["mmdebstrap", "--variant=minbase", "bookworm", archive], check=True)
        container = self.buildah("from", "scratch")
        self.buildah("add", container, str(archive), "/")
        self.buildah("commit", "--rm", container, BASE)
        archive.unlink()

    def build(self, name: str, *options: str) -> None:
        """Build `k8s/images/NAME.Dockerfile` as the image NAME."""
        self.buildah(
            *("bud", "--layers=false", "--isolation=chroot", f"--build-arg=BASE={BASE}"),
            *(f"--file=k8s/images/{name}.Dockerfile", f"--tag=localhost/{name}"),
            *options,
            *shlex.split(os.environ.get(OPTIONS, "")),
            ".",
        )

    def config(self, name: str) -> dict[str, Any]:
        """What an image says of how it is run."""
        return json.loads(self.buildah("inspect", "--type=image", f"localhost/{name}"))["OCIv1"][
            "config"
        ]

    def root(self, name: str) -> str:
        """The folder that is the root of an image's container."""
        if name not in self._roots:
            container = self.buildah("from", f"localhost/{name}")
            self._roots[name] = self.buildah("mount", container)
        return self._roots[name]

    def run(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in an image as its own configuration would have it."""
        config = self.config(name)
        settings = [*config["Env"], *(f"{key}={value}" for key, value in environment.items())]
        return subprocess.Popen(
            [
                *("unshare", "--mount", "bash", "-c", ENTER, "enter"),
                *(self.root(name), config["User"], *settings, *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def buildah(self, *arguments: str) -> str:
        """What a command of Buildah's prints, on its last line but for JSON."""
        store = ("--storage-driver=vfs", f"--root={self._store}", f"--runroot={self._store}-run")
        done = subprocess.run(
            ["buildah", *store, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout.strip()

    def remove(self) -> None:
        """Give back the disk."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")
