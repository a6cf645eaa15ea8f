"""The checks of `brigade doctor`: each measures something and says what to think of it."""

import asyncio
import resource
import stat
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec
from huggingface_hub import constants

from shared import findings, probes
from shared.discovery.multiaddrs import reachable_host
from shared.doctor_settings import (
    BootstrapDoctor,
    DoctorSettings,
    GatewayDoctor,
    ServesModels,
    WorkerDoctor,
)
from shared.errors import BrigadeError, ConfigError, RecordError
from shared.findings import Finding
from shared.hosts import is_alone
from shared.identity import Identity
from shared.model_files import hub_model, locate, name_of, read_spec
from shared.outside import dialled_back
from shared.reached import of_trials
from shared.secret import SwarmSecret
from shared.swarm import GATEWAYS, Announcement, ModelSpec

CHECKUPS = "brigade.checkups"
DISTRIBUTION = "bucket-brigade"
MAX_JOIN = 16


async def examine(role: str, settings: DoctorSettings) -> list[Finding]:
    """Every check that concerns the role, in the order in which things are set up."""
    checks: list[Callable[[], Awaitable[list[Finding]]]] = [
        lambda: _versions(role),
        lambda: _role_s_own(role, settings),
        lambda: identity(settings),
        lambda: models(settings),
        lambda: _disk(settings),
        lambda: _files(settings),
        lambda: port(settings),
        lambda: join(role, settings),
        lambda: swarm(settings),
    ]
    found: list[Finding] = []
    for check in checks:
        try:
            found += await check()
        except OSError as error:  # e.g. a folder that may not even be looked into
            where = f"{error.filename}: " if error.filename else ""
            remedy = "let the user who runs this read and write it, or name another"
            found.append(findings.problem("system", f"{where}{error.strerror or error}", remedy))
    return found


async def _versions(role: str) -> list[Finding]:
    try:
        about = metadata.metadata(DISTRIBUTION)
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        remedy = "in a checkout: pip install -e ."
        return [findings.problem("packages", f"{DISTRIBUTION} is not installed", remedy)]
    python = findings.of_python(
        ".".join(map(str, sys.version_info[:3])), str(about["Requires-Python"])
    )
    extra = "worker" if role == "worker" else ""
    there = probes.installed(requirements)
    return [python, *findings.of_requirements(requirements, extra, there)]


async def _role_s_own(role: str, settings: DoctorSettings) -> list[Finding]:
    """What the role's own package checks; torch and redis are no business of ours."""
    for entry_point in metadata.entry_points(group=CHECKUPS, name=role):
        try:
            checkup = entry_point.load()
        except (ImportError, OSError) as error:  # OSError: a shared library that does not load
            package = f"{DISTRIBUTION}[worker]" if role == "worker" else DISTRIBUTION
            remedy = f"pip install --upgrade '{package}'"
            return [findings.problem(role, f"it cannot be imported: {error}", remedy)]
        return cast("list[Finding]", await checkup(settings))
    return []


async def identity(settings: DoctorSettings) -> list[Finding]:
    """Whether the private key is usable, private, and nobody else's. Makes none."""
    path = settings.identity
    if not path.exists():
        _, is_writable = probes.room_in(path.parent)
        if is_writable:
            return [findings.ok("identity", f"{path} will be made on first use")]
        remedy = "make its folder writable, or name another file with --identity"
        return [findings.problem("identity", f"{path} cannot be made", remedy)]
    try:
        known = Identity.load_or_create(path)
    except ConfigError as error:
        remedy = "restore it from a backup, or remove it to become somebody new"
        return [findings.problem("identity", str(error), remedy)]
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        says = f"{path} can be read by other users, who could pass for this machine"
        return [findings.warning("identity", says, f"chmod 600 {path}")]
    try:
        Identity.claim(path).release()
    except ConfigError:
        says = f"{known.peer}, in use by another process"
        remedy = "all is well if that is the one you are checking; else give each its own file"
        return [findings.warning("identity", says, remedy)]
    return [findings.ok("identity", f"{known.peer}")]


async def models(settings: DoctorSettings) -> list[Finding]:
    """Whether each model can be read."""
    if not isinstance(settings, ServesModels):
        return []
    return [await asyncio.to_thread(_model, model) for model in settings.model or [""]]


def _model(model: str) -> Finding:
    try:
        directory = locate(model)
        spec = read_spec(directory, name_of(model))
    except BrigadeError as error:
        return findings.problem("model", str(error), "correct --model, or what it names")
    missing = [
        name
        for name in ("tokenizer.json", "tokenizer_config.json")
        if not (directory / name).exists()
    ]
    if len(missing) == 2:
        says = f"{directory} holds no tokenizer.json and no tokenizer_config.json"
        remedy = "gateways need the tokenizer: copy it there, as `save_pretrained` writes it"
        return findings.warning("model", says, remedy)
    if not hub_model(model) and not any(directory.glob("*.safetensors")):
        says = f"{directory} holds no *.safetensors: it can be served by gateways, not hosted"
        return findings.warning("model", says, "workers need the weights there as well")
    says = f"{spec.name} at {spec.revision[:12]}: {spec.num_blocks} blocks of {spec.hidden_size}"
    return findings.ok("model", says)


async def _disk(settings: DoctorSettings) -> list[Finding]:
    if not isinstance(settings, ServesModels):
        return []
    if not any(hub_model(model) for model in settings.model):
        return []  # what is served lies on this disk already
    folder = Path(constants.HF_HUB_CACHE)
    free, is_writable = probes.room_in(folder)
    return [findings.of_disk(str(folder), free, is_writable=is_writable)]


async def _files(settings: DoctorSettings) -> list[Finding]:
    streams = settings.max_streams if isinstance(settings, GatewayDoctor) else 64
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 1 << 30 if soft == resource.RLIM_INFINITY else soft
    return [findings.of_files(limit, wanted=512 + 4 * streams)]


async def port(settings: DoctorSettings) -> list[Finding]:
    """Whether the port is free, who could dial the address, and whether dialling it ends here."""
    where = f"{settings.host}:{settings.port}"
    try:
        listener = await asyncio.to_thread(probes.listen, settings.host, settings.port)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        remedy = "stop what listens there, or choose another --host or --port (0 takes any free)"
        return [findings.problem("port", f"{where} cannot be listened on: {why}", remedy)]
    with listener:
        try:
            host, outer_port, option = announced(settings, int(listener.getsockname()[1]))
        except ValueError as error:
            return [findings.problem("address", str(error), "correct --public-url")]
        free = findings.ok("port", f"{where} is free" if settings.port else "any free one is taken")
        if isinstance(settings, GatewayDoctor):
            return [free]  # it dials out; its clients know where it is
        address = findings.of_address(host, await probes.addresses_of(host), option)
        if address.level == "problem":
            return [free, address]
        back = await probes.comes_back(listener, host, outer_port)
    return [free, address, _reach(host, outer_port, comes_back=back)]


def _reach(host: str, outer_port: int, *, comes_back: bool) -> Finding:
    if comes_back:
        return findings.ok("reach", f"dialling {host}:{outer_port} from here ends at this machine")
    return findings.warning(
        "reach",
        f"dialling {host}:{outer_port} from here does not end at this machine",
        "look at firewall and port forwarding; some routers do not loop back, so try from outside",
    )


def announced(settings: DoctorSettings, bound: int) -> tuple[str, int, str]:
    """Host and port that others are told, and the option that says so."""
    host = reachable_host(settings.host)
    if isinstance(settings, BootstrapDoctor):
        named = settings.public_address
        parts = named.split("/")
        if named.startswith("/") and len(parts) > 4 and parts[4].isdecimal():
            return parts[2], int(parts[4]) or bound, "--public-address"
        return named or host, bound, "--public-address"
    if isinstance(settings, WorkerDoctor) and settings.public_url:
        url = urlsplit(settings.public_url)
        default = 443 if url.scheme == "wss" else 80
        return url.hostname or host, url.port or default, "--public-url"
    return host, bound, "--public-url"


async def join(role: str, settings: DoctorSettings) -> list[Finding]:
    """Whether each node that is to be joined answers when it is really dialled."""
    if not settings.join:
        if role == "bootstrap":
            return []
        says = "no --join: it will be a swarm of its own, which nobody finds"
        return [findings.warning("join", says, "give the address of a node of the swarm")]
    dialled = settings.join[:MAX_JOIN]
    try:
        known = await asyncio.gather(*map(probes.known_at, dialled))
    except ConfigError as error:
        return [findings.problem("join", str(error), "correct --join")]
    return [findings.of_members(*pair) for pair in zip(dialled, known, strict=True)]


async def swarm(settings: DoctorSettings) -> list[Finding]:
    """The secret, the workers and whether they can be dialled, and the clock."""
    found: list[Finding] = []
    secret: SwarmSecret | None = None
    if isinstance(settings, ServesModels):
        try:
            secret = SwarmSecret.load(settings.swarm_secret_file, settings.swarm)
        except ConfigError as error:
            return [findings.of_secret(str(error), is_private=True), *await _clock([])]
        found.append(findings.of_secret("", is_private=secret is not None))
    for spec in _specs(settings) if settings.join else []:
        try:
            sightings, at, hint = await probes.look(
                settings.join, settings.swarm, spec, secret=secret
            )
        except ConfigError:
            break  # said of --join already
        urls = sorted({worker.url for worker, _ in sightings if worker.url})[: probes.MAX_DIALLED]
        answers = await asyncio.gather(*map(probes.answers, urls))
        dead = [url for url, answer in zip(urls, answers, strict=True) if not answer]
        num_attached = sum(not worker.url for worker, _ in sightings)
        found += findings.of_attached(num_attached)
        if urls or not num_attached:
            found.append(findings.of_workers(len(urls) - len(dead), dead, hint))
        skew = findings.skew_of(sightings, at)
        if skew is not None and not any(one.check == "clock" for one in found):
            found.append(findings.of_skew(skew, "the swarm's workers"))
        found += await _attaching(settings, spec, secret)
    return [*found, *await _clock(found)]


async def _attaching(
    settings: DoctorSettings, spec: ModelSpec, secret: SwarmSecret | None
) -> list[Finding]:
    """What becomes of a worker here that nobody can dial."""
    if not isinstance(settings, WorkerDoctor) or is_alone(settings.host, settings.join):
        return []
    gateways = msgspec.structs.replace(spec, revision=spec.revision + GATEWAYS)
    seen = await probes.look(settings.join, settings.swarm, gateways, secret=secret)
    found = [findings.of_gateways(len(seen.sightings))]
    told = [gateway for gateway, _ in seen.sightings if not gateway.leaving]
    return [*found, await outside(settings, spec, told, secret)] if told else found


async def outside(
    settings: WorkerDoctor,
    spec: ModelSpec,
    gateways: Sequence[Announcement],
    secret: SwarmSecret | None,
) -> Finding:
    """Whether gateways can dial a worker here: they are asked to."""
    try:
        trials = await dialled_back(settings, spec, gateways, secret)
    except (OSError, UnicodeError):
        where = f"{settings.host}:{settings.port}"
        return findings.warning(
            "outside",
            f"no gateway was asked to dial back, as {where} cannot be listened on",
            "stop what listens there and look again; of a worker that runs, its own log says how "
            "others reach it",
        )
    except RecordError as error:
        says = f"{settings.public_url or settings.host} cannot be announced: {error}"
        return findings.problem("outside", says, "correct --public-url or --tls")
    return of_trials(trials, settings.port, is_given=bool(settings.public_url))


async def _clock(found: Iterable[Finding]) -> list[Finding]:
    """By a time server, unless something better has told."""
    if any(one.check == "clock" for one in found):
        return []
    skew = await asyncio.to_thread(probes.ntp_skew)
    return [findings.of_skew(skew, probes.NTP_SERVER[0])]


def _specs(settings: DoctorSettings) -> list[ModelSpec]:
    """The models to be served; none for one that does not read."""
    if not isinstance(settings, ServesModels):
        return []
    specs: list[ModelSpec] = []
    wanted = settings.model or [""]
    names = settings.model_name or [name_of(model) for model in wanted]
    for model, name in zip(wanted, names, strict=False):
        try:
            specs.append(read_spec(locate(model), name))
        except BrigadeError:
            continue  # said of --model already
    return specs
