"""Carries out the Dockerfile without a container engine, starts what comes of it, and judges it: `python -m deploy.rehearse`.

Theory of operation: each stage gets a root file system of its own, an overlay over this machine's, in a mount namespace that
nobody else sees; this machine stands for the base image. COPY and RUN are carried out in there by the letter of the
Dockerfile, package installations included. Then the last stage becomes read-only, and its start command runs as process 1 of a
namespace of its own, as the user without rights and without capabilities, with a volume for /data and a fresh /tmp: what
docker-compose.yml and the manifests for Kubernetes ask for. HEALTHCHECK's command says when it serves; then it is asked, looked at
and ended by the stop signal.

It needs Linux, root, and some 2 GB of memory for the file systems. It shows nothing about the base image: that python:3.11-slim
has what this machine has is not tried.

What may not live here: what the Dockerfile means (image).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.image import (
    ROOT,
    Copy,
    Image,
    Run,
    Stage,
    context_files,
    expanded,
    read_image,
    sources,
)

HELD_S = 60.0
"""How long it may take to become healthy, on a busy machine."""
STOPPED_S = 20.0
"""How long it may take to end: stop_grace_period of docker-compose.yml."""
_OF_THIS_MACHINE = ("PIP_", "SSL_CERT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


class RehearsalError(Exception):
    """What came of the Dockerfile is not as it should be."""


def say(line: str) -> None:
    """Tell a step that went well."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Carry out and judge. Returns the exit status."""
    if sys.platform != "linux" or os.geteuid() != 0:
        sys.stderr.write("the rehearsal needs Linux and root\n")
        return 2
    if "--inside" not in sys.argv:
        os.chdir(ROOT)
        own = [sys.executable, "-m", "deploy.rehearse", "--inside"]
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *own])  # noqa: S606
    work = Path(tempfile.mkdtemp(prefix="rehearsal-"))
    try:
        _mount("-t", "tmpfs", "-o", "size=4g,mode=755", "tmpfs", str(work))
        _rehearse(work)
    except RehearsalError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", str(work)], check=False)
        work.rmdir()
    return 0


def _rehearse(work: Path) -> None:
    image = read_image((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    seen = context_files(ROOT, (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines())
    roots: dict[str | None, Path] = {}
    for number, stage in enumerate(image.stages):
        roots[stage.name] = root = _stage_root(work / f"stage{number}")
        for step in stage.steps:
            began = time.monotonic()
            match step:
                case Copy():
                    _copy(step, root, roots, seen)
                    say(f"COPY {' '.join(step.sources)} ({time.monotonic() - began:.1f} s)")
                case Run():
                    _run(step, root)
                    say(f"RUN {step.command.split('&&')[0].strip()} ... ({time.monotonic() - began:.1f} s)")
    container = Container(image, roots[image.final.name], work)
    container.prepare()
    container.judge()


def _mount(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RehearsalError(f"mount {' '.join(options)}: {done.stderr.strip()}")


def _stage_root(folder: Path) -> Path:
    """Return a root file system that is this machine's, except for what is written to it and for this project."""
    upper, merged = folder / "upper", folder / "root"
    for made in (upper, folder / "work", merged):
        made.mkdir(parents=True)
    _mount(
        "-t",
        "overlay",
        "-o",
        f"lowerdir=/,upperdir={upper},workdir={folder / 'work'}",
        "overlay",
        str(merged),
    )
    for shared in ("proc", "dev"):
        _mount("--rbind", f"/{shared}", str(merged / shared))
    _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(merged / "tmp"))
    # The program in the image may not lean on the checkout that it was built from.
    checkout = merged / ROOT.relative_to("/")
    checkout.mkdir(parents=True, exist_ok=True)  # one below /tmp is hidden already
    _mount("-t", "tmpfs", "-o", "mode=000", "tmpfs", str(checkout))
    _python(merged)
    return merged


def _python(root: Path) -> None:
    """Put Python where python:3.11-slim has it, for everybody to run."""
    real = Path(sys.base_prefix).resolve()
    for folder in (real, *real.parents[:-1]):
        seen = root / folder.relative_to("/")
        seen.chmod(seen.stat().st_mode | 0o555)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    local = root / "usr/local"
    if real == Path("/usr/local"):
        return
    for link, target in (
        (local / "bin/python", real / "bin" / version),
        (local / "bin/python3", real / "bin" / version),
        (local / "lib" / version, real / "lib" / version),
    ):
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def _copy(step: Copy, root: Path, roots: Mapping[str | None, Path], seen: Sequence[str]) -> None:
    if step.stage is None:
        # As from a checkout that is closed to others: a build keeps its rights.
        before = os.umask(0o077)
        for path, wanted in sources(step, seen).items():
            inside = root / wanted.lstrip("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, inside)
            inside.chmod(0o600)
        os.umask(before)
        return
    (source,) = step.sources
    target = root / step.target.lstrip("/")
    target.mkdir(parents=True, exist_ok=True)
    origin = roots[step.stage] / source.lstrip("/")
    subprocess.run(["cp", "-a", f"{origin}/.", str(target)], check=True)


def _run(step: Run, root: Path) -> None:
    (root / step.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
    of_this_machine = {
        name: value for name, value in os.environ.items() if name.upper().startswith(_OF_THIS_MACHINE)
    }
    env = {
        "PATH": _BASE_PATH,
        "HOME": "/root",
        "DEBIAN_FRONTEND": "noninteractive",
        **of_this_machine,
        **step.env,
    }
    done = subprocess.run(
        ["chroot", str(root), "/bin/sh", "-c", f"cd {step.workdir} && {step.command}"],
        env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RehearsalError(f"RUN {step.command}\n{done.stdout[-3000:]}")


class Container:
    """The finished image and the program in it."""

    def __init__(self, image: Image, root: Path, work: Path) -> None:
        self._stage: Stage = image.final
        self._root = root
        self._volume = work / "volume"
        self._output = work / "output"
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port: int = found.getsockname()[1]

    def prepare(self) -> None:
        """Make the file system read-only, with a volume as Kubernetes gives it: empty, and writable through its group.

        Docker's begin as what the image has there, and belong to its user.
        """
        (data,) = self._stage.volumes
        inside = self._root / data.lstrip("/")
        user, _, group = str(self._stage.user).partition(":")
        found = inside.stat()
        self._expect((str(found.st_uid), str(found.st_gid)) == (user, group), f"{data} is the user's")
        self._volume.mkdir()
        os.chown(self._volume, 0, int(group))
        self._volume.chmod(0o2775)
        _mount("-o", "remount,ro", str(self._root))
        _mount("--bind", str(self._volume), str(inside))

    def judge(self) -> None:
        """Start the program, ask it, look at it and end it. Raises RehearsalError."""
        self._expect(self._within(self._stage.health) != 0, "HEALTHCHECK fails while nothing runs")
        refused = self._command(self._stage.entrypoint)
        told = subprocess.run(refused, capture_output=True, text=True, timeout=HELD_S, check=False)
        self._expect(
            told.returncode == 2 and "set API_KEYS" in told.stderr, "without keys it refuses to start"
        )
        with self._running() as (outer, pid):
            self._wait_until_healthy(outer)
            say("HEALTHCHECK succeeds")
            self._look_at_process(pid)
            self._ask()
            self._look_at_files()
            began = time.monotonic()
            os.kill(pid, signal.Signals[self._stage.stop_signal])
            status = outer.wait(STOPPED_S)
            took_s = time.monotonic() - began
            self._expect(status == 0, f"{self._stage.stop_signal} ends it with status 0 ({took_s:.1f} s)")
        self._expect(self._within(self._stage.health) != 0, "HEALTHCHECK fails after the end")
        self._expect("Traceback" not in self._output.read_text(), "no traceback was written")

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            told = self._output.read_text()[-3000:] if self._output.exists() else ""
            raise RehearsalError(f"not so: {what}\n{told}")
        say(what)

    def _command(self, command: Sequence[str]) -> list[str]:
        """Return `command` as it is run in the container: its user, no capabilities, its variables alone."""
        stage = self._stage
        base = {"PATH": _BASE_PATH}
        variables = base | {name: expanded(value, base) for name, value in stage.env.items()}
        variables["PORT"] = str(self._port)
        user, _, group = str(stage.user).partition(":")
        rights = [
            "--reuid",
            user,
            "--regid",
            group,
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ]
        return [
            "chroot", str(self._root), "/usr/bin/setpriv", *rights, "/usr/bin/env", "-i",
            *(f"{name}={value}" for name, value in variables.items()),
            "/bin/sh", "-c", 'cd "$0" && exec "$@"', stage.workdir, *command,
        ]  # fmt: skip

    def _within(self, command: Sequence[str]) -> int:
        """Run `command` in the container; return its exit status."""
        done = subprocess.run(self._command(command), capture_output=True, timeout=HELD_S, check=False)
        return done.returncode

    @contextlib.contextmanager
    def _running(self) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """Start the program as process 1; yield its parent and its number out here."""
        alone = ["unshare", "--pid", "--fork", "--kill-child", f"--mount-proc={self._root}/proc"]
        with self._output.open("wb") as output:
            outer = subprocess.Popen(
                [
                    *alone,
                    *self._command([*self._stage.entrypoint, "--published", "127.0.0.1"]),
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
                until = time.monotonic() + HELD_S
                while not (found := children.read_text().split()):
                    if time.monotonic() > until:
                        raise RehearsalError("it was not started")
                    time.sleep(0.02)
                yield outer, int(found[0])
            finally:
                outer.kill()
                outer.wait()

    def _wait_until_healthy(self, outer: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + HELD_S
        while self._within(self._stage.health) != 0:
            self._expect_running(outer, until)
            time.sleep(0.2)

    def _expect_running(self, outer: subprocess.Popen[bytes], until: float) -> None:
        if outer.poll() is not None or time.monotonic() > until:
            raise RehearsalError(f"it does not become healthy:\n{self._output.read_text()[-3000:]}")

    def _look_at_process(self, pid: int) -> None:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        user, _, group = str(self._stage.user).partition(":")
        self._expect(
            set(status["Uid"]) == {user} and set(status["Gid"]) == {group}, f"it runs as {user}:{group}"
        )
        self._expect(status["NSpid"][-1] == "1", "it is process 1")
        capabilities = {int(status[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd")}
        self._expect(
            capabilities == {0} and status["NoNewPrivs"] == ["1"], "it has no capabilities and gets none"
        )

    def _ask(self) -> None:
        body = json.dumps({"prompt": "What is the capital of Japan?", "deadline_s": 50}).encode()
        base = f"http://127.0.0.1:{self._port}"
        asked = urllib.request.Request(  # noqa: S310 - an http address of this machine
            f"{base}/api/generate", data=body, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=HELD_S) as reply:  # noqa: S310
            answer = json.load(reply)
        self._expect(bool(answer["response"].strip()), f"it answers: {answer['response']!r}")
        self._expect(answer["provider"] == "local_smollm", "the embedded model in the image answered")
        with urllib.request.urlopen(f"{base}/", timeout=HELD_S) as reply:  # noqa: S310
            self._expect(b"<html" in reply.read(), "the dashboard is served")

    def _look_at_files(self) -> None:
        for folder in ("/app", "/venv", "/models", "/etc"):
            self._expect(self._within(["/usr/bin/touch", f"{folder}/x"]) != 0, f"{folder} cannot be written")
        self._expect(
            any((self._root / "app/fallback/api/__pycache__").glob("*.pyc")), "the program is compiled"
        )
        self._expect((self._volume / "usage.log").stat().st_size > 0, "usage.log is in the volume")
        self._expect((self._volume / "state.sqlite").exists(), "the state is in the volume")


if __name__ == "__main__":
    raise SystemExit(main())
