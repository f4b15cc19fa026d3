"""What the Dockerfile says, as values: its stages, and which files of this folder go into each.

Theory of operation: the Dockerfile is parsed by dockerfile-parse and .dockerignore by the client library of Docker, so that
both are read as Docker reads them. Only the instructions that our Dockerfile uses are understood; any other is an error, and so a new
one is noticed here and not in the image.

What may not live here: carrying anything out (rehearse), judging it (tests).
"""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

__all__ = ["ROOT", "Copy", "Image", "Run", "Stage", "context_files", "expanded", "read_image", "sources"]

ROOT = Path(__file__).resolve().parent.parent
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One COPY: from this folder, or from an earlier stage."""

    workdir: str
    sources: tuple[str, ...]
    target: str
    stage: str | None
    """The stage that it copies from; None: this folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One RUN, a line for the shell."""

    workdir: str
    command: str
    env: Mapping[str, str]
    """ENV and ARG up to here, those of the base image left out."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """What stands from one FROM to the next."""

    base: str
    name: str | None
    steps: list[Copy | Run] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str | None = None
    volumes: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"
    health: list[str] = field(default_factory=list)
    health_options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The whole Dockerfile."""

    stages: tuple[Stage, ...]

    @property
    def final(self) -> Stage:
        """The stage that becomes the image."""
        return self.stages[-1]

    def copies(self) -> Iterator[Copy]:
        """Yield what is copied out of this folder, in any stage."""
        for stage in self.stages:
            yield from (step for step in stage.steps if isinstance(step, Copy) and step.stage is None)


def read_image(text: str) -> Image:
    """Return what the Dockerfile `text` says. Raises ValueError at an instruction that is not understood."""
    parser = DockerfileParser(fileobj=io.StringIO(text))
    stages: list[Stage] = []
    for entry in parser.structure:
        name, value = entry["instruction"], entry["value"]
        if name == "COMMENT":
            continue
        if name == "FROM":
            words = value.split()
            stages.append(Stage(base=words[0], name=words[2] if len(words) == 3 else None))
        else:
            _take(stages[-1], name, value)
    return Image(stages=tuple(stages))


def _take(stage: Stage, name: str, value: str) -> None:
    match name:
        case "WORKDIR":
            stage.workdir = str(PurePosixPath(stage.workdir) / value)
        case "ENV":
            stage.env |= _pairs(value)
        case "ARG":
            stage.args |= _pairs(value)
        case "RUN":
            stage.steps.append(Run(workdir=stage.workdir, command=value, env={**stage.args, **stage.env}))
        case "COPY":
            stage.steps.append(_copy(stage, value))
        case "USER":
            stage.user = value
        case "EXPOSE":
            stage.ports.extend(int(port) for port in value.split())
        case "VOLUME":
            stage.volumes.extend(value.split())
        case "STOPSIGNAL":
            stage.stop_signal = value
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(value)
        case "HEALTHCHECK":
            options, _, command = value.partition("CMD ")
            stage.health = json.loads(command)
            stage.health_options = _pairs(options.replace("--", ""))
        case _:
            raise ValueError(f"{name} is not understood here")


def _pairs(value: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(value))


def _copy(stage: Stage, value: str) -> Copy:
    words = value.split()
    options = [word for word in words if word.startswith("--")]
    *found, target = (word for word in words if not word.startswith("--"))
    if any(not option.startswith("--from=") for option in options):
        raise ValueError(f"COPY {value} is not understood here")
    return Copy(
        workdir=stage.workdir,
        sources=tuple(found),
        target=target,
        stage=options[0].removeprefix("--from=") if options else None,
    )


def expanded(value: str, variables: Mapping[str, str]) -> str:
    """Return `value` with $NAME and ${NAME} replaced."""
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], ""), value)


def context_files(folder: Path, patterns: Sequence[str]) -> list[str]:
    """Return the files of `folder` that a build gets to see, `patterns` being the lines of .dockerignore."""
    lines = [line.strip() for line in patterns if line.strip() and not line.startswith("#")]
    return sorted(path for path in exclude_paths(str(folder), lines) if (folder / path).is_file())


def sources(copy: Copy, seen: Sequence[str]) -> dict[str, str]:
    """Return the files among `seen` that `copy` takes, each with the absolute path that it gets in the image."""
    target = PurePosixPath(copy.workdir) / copy.target
    into_folder = copy.target.endswith("/") or len(copy.sources) > 1
    taken = {}
    for source in copy.sources:
        for path in seen:
            if path == source:
                taken[path] = str(target / PurePosixPath(path).name if into_folder else target)
            elif path.startswith(f"{source}/"):
                taken[path] = str(target / path.removeprefix(f"{source}/"))
    return taken
