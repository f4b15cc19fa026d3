"""LocalModel: its supervision with small scripts in place of the model, and the real model at the end."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fallback.local.install import WeightsSource, weights_path
from fallback.local.model import LocalModel, backoff_s
from fallback.local.process import Endpoint

ROOT = Path(__file__).parents[1]
URL = "http://127.0.0.1:1"
# Every start adds a line with its process id and its key to "starts"; what it does next is each test's own.
PREAMBLE = """
import json, os, signal, sys, time
from pathlib import Path
here = Path(__file__).parent
key = sys.stdin.readline().strip()
with (here / "starts").open("a") as starts:
    starts.write(f"{os.getpid()} {key}\\n")
count = len((here / "starts").read_text().splitlines())
def say(**event):
    print(json.dumps(event), flush=True)
def serve():
    say(event="ready", url="http://127.0.0.1:1")
    sys.stdin.read()
"""


def until(true: Callable[[], bool], *, within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def until_after_retry(model: LocalModel, true: Callable[[], bool]) -> None:
    """Wait for something while the supervisor is told to try again at once."""

    def tried() -> bool:
        model.retry()
        return true()

    until(tried)


class Stage:
    """A folder with a script that stands for the child, and the models started on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heard: list[str | None] = []
        self._models: list[LocalModel] = []
        self.gguf = folder / "some.gguf"
        self.gguf.write_bytes(b"GGUF....")

    def command(self, body: str) -> list[str]:
        script = self.folder / "child_script.py"
        script.write_text(PREAMBLE + textwrap.dedent(body), encoding="utf-8")
        return [sys.executable, str(script)]

    def start(self, body: str) -> LocalModel:
        return self.begin(LocalModel(self.gguf, command=self.command(body), on_change=self.heard.append))

    def begin(self, model: LocalModel) -> LocalModel:
        self._models.append(model)
        model.start()
        return model

    def starts(self) -> list[tuple[int, str]]:
        try:
            lines = (self.folder / "starts").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return []
        return [(int(pid), key) for pid, key in (line.split() for line in lines)]

    def close(self) -> None:
        for model in self._models:
            model.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_is_ready_with_the_key_that_its_child_got(stage: Stage) -> None:
    model = stage.start("serve()")
    endpoint = model.wait_ready(10)
    ((pid, key),) = stage.starts()
    assert endpoint == Endpoint(url=URL, api_key=key)
    assert len(key) >= 32
    assert key not in repr(endpoint)
    assert (model.state, model.pid, model.unavailable_reason()) == ("ready", pid, None)
    assert stage.heard == []


def test_loading_counts_as_available(stage: Stage) -> None:
    model = stage.start("""
        while not (here / "go").exists(): time.sleep(0.01)
        serve()
    """)
    assert (model.state, model.unavailable_reason(), model.endpoint()) == ("loading", None, None)
    assert model.wait_ready(0.05) is None
    (stage.folder / "go").touch()
    assert model.wait_ready(10) is not None


def test_nothing_is_waited_for_before_start(stage: Stage) -> None:
    model = LocalModel(stage.gguf, command=stage.command("serve()"))
    assert model.wait_ready(60) is None
    assert model.unavailable_reason() == "the embedded model is not running"


def test_a_killed_child_is_replaced_by_one_with_a_new_key(stage: Stage) -> None:
    model = stage.start("serve()")
    assert model.wait_ready(10)
    os.kill(stage.starts()[0][0], signal.SIGKILL)
    until(lambda: model.endpoint() is None)
    assert model.unavailable_reason() is None
    endpoint = model.wait_ready(10)
    assert endpoint is not None
    (_, first_key), (_, second_key) = stage.starts()
    assert endpoint.api_key == second_key != first_key
    assert stage.heard == []


def test_a_child_that_keeps_crashing_is_reported_and_tried_on(stage: Stage) -> None:
    model = stage.start("""
        if (here / "healed").exists(): serve()
        print("out of luck", file=sys.stderr)
        sys.exit(7)
    """)
    until_after_retry(model, lambda: model.unavailable_reason() is not None)
    assert len(stage.starts()) >= 3
    reason = "the model process keeps crashing: exit code 7, last words: out of luck"
    assert (model.unavailable_reason(), model.state) == (reason, "unavailable")
    began = time.monotonic()
    assert model.wait_ready(60) is None
    assert time.monotonic() - began < 5
    (stage.folder / "healed").touch()
    until_after_retry(model, lambda: model.endpoint() is not None)
    assert stage.heard == [reason, None]


def test_one_crash_is_not_yet_a_reason_to_give_up(stage: Stage) -> None:
    model = stage.start("""
        if count > 1: serve()
        sys.exit(1)
    """)
    assert model.wait_ready(10) is not None
    assert stage.heard == []


@pytest.mark.parametrize(
    ("stage_of_failure", "message", "expected"),
    [
        (
            "import",
            "libgomp.so.1: cannot open shared object file: No such file or directory",
            "libgomp1 is missing: apt-get install libgomp1",
        ),
        ("import", "GLIBC_2.38 not found", "xllamacpp cannot be loaded: GLIBC_2.38 not found"),
        ("load", "no tensors", "the model cannot be loaded: no tensors"),
    ],
)
def test_what_the_child_says_about_its_failure_is_the_reason(
    stage: Stage, stage_of_failure: str, message: str, expected: str
) -> None:
    model = stage.start(f"""
        say(event="failed", stage={stage_of_failure!r}, message={message!r})
        sys.exit(1)
    """)
    assert model.wait_ready(10) is None
    assert (model.unavailable_reason(), model.state) == (expected, "unavailable")
    until(lambda: stage.heard == [expected])


def test_the_engines_own_words_explain_a_model_that_cannot_be_loaded(stage: Stage) -> None:
    model = stage.start("""
        print("0.01 E llama_model_load: error loading model: data is not within the file", file=sys.stderr)
        print("0.01 E srv: exiting", file=sys.stderr)
        say(event="failed", stage="load", message="Failed to init server")
        sys.exit(1)
    """)
    assert model.wait_ready(10) is None
    assert model.unavailable_reason() == "the model cannot be loaded: data is not within the file"


def test_a_command_that_does_not_exist_is_a_reason(stage: Stage) -> None:
    model = stage.begin(LocalModel(stage.gguf, command=[str(stage.folder / "absent")]))
    assert model.wait_ready(10) is None
    assert model.unavailable_reason() == "its process cannot be started: No such file or directory"


def test_other_output_than_the_protocol_is_ignored(stage: Stage) -> None:
    model = stage.start("""
        sys.stdout.buffer.write(b"\\xff\\xfe loading...\\n{\\n[]\\n\\"ready\\"\\n" + b"x" * 200000 + b"\\n")
        say(event="ready", url="http://203.0.113.1:80")
        say(event="ready", url=17)
        say(event="ready")
        serve()
        """)
    endpoint = model.wait_ready(10)
    assert endpoint is not None
    assert endpoint.url == URL


def test_a_child_that_talks_a_lot_never_blocks(stage: Stage) -> None:
    model = stage.start("""
        for _ in range(50): print("x" * 100_000, file=sys.stderr)
        say(event="ready", url="http://127.0.0.1:1")
        for _ in range(50): print("y" * 100_000, flush=True)
        (here / "said").touch()
        sys.stdin.read()
    """)
    assert model.wait_ready(10) is not None
    until((stage.folder / "said").exists)


def test_the_child_gets_no_secrets(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "test-key-not-real")
    monkeypatch.setenv("SESSION_SECRET", "test-secret-not-real")
    model = stage.start("""
        (here / "environment").write_text(json.dumps([dict(os.environ), sys.argv]))
        serve()
    """)
    endpoint = model.wait_ready(10)
    assert endpoint is not None
    seen = (stage.folder / "environment").read_text(encoding="utf-8")
    assert "PATH" in seen
    assert "not-real" not in seen
    assert endpoint.api_key not in seen


def test_the_child_is_told_model_threads_and_context(stage: Stage) -> None:
    command = stage.command("""
        (here / "arguments").write_text(json.dumps(sys.argv[1:]))
        serve()
    """)
    model = stage.begin(LocalModel(stage.gguf, command=command, threads=3, n_ctx=512))
    assert model.wait_ready(10) is not None
    arguments = json.loads((stage.folder / "arguments").read_text(encoding="utf-8"))
    assert arguments == ["--model", str(stage.gguf), "--threads", "3", "--ctx", "512"]


def test_close_ends_the_child_and_may_be_repeated(stage: Stage) -> None:
    model = stage.start("serve()")
    assert model.wait_ready(10)
    model.close()
    assert gone(stage.starts()[0][0])
    assert (model.state, model.endpoint(), model.wait_ready(60)) == ("stopped", None, None)
    model.close()
    model.start()
    assert model.state == "stopped"
    assert stage.heard == []


def test_close_ends_a_child_that_does_not_listen(stage: Stage) -> None:
    model = stage.start("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say(event="ready", url="http://127.0.0.1:1")
        while True: time.sleep(60)
    """)
    assert model.wait_ready(10)
    began = time.monotonic()
    model.close()
    assert time.monotonic() - began < 4
    assert gone(stage.starts()[0][0])


def test_close_wakes_those_who_wait(stage: Stage) -> None:
    model = stage.start("sys.stdin.read()")
    answers: list[Endpoint | None] = []
    waiter = threading.Thread(target=lambda: answers.append(model.wait_ready(60)))
    waiter.start()
    model.close()
    waiter.join(5)
    assert answers == [None]


def test_many_tasks_wait_without_threads(stage: Stage) -> None:
    model = stage.start("""
        while not (here / "go").exists(): time.sleep(0.01)
        serve()
    """)

    async def wait_together() -> list[Endpoint | None]:
        waiters = [asyncio.create_task(model.wait_ready_async(10)) for _ in range(50)]
        await asyncio.sleep(0)
        assert len(model._waiting) == 50
        assert threading.active_count() < 25
        (stage.folder / "go").touch()
        return await asyncio.gather(*waiters)

    answers = asyncio.run(wait_together())
    assert [answer.url if answer else None for answer in answers] == [URL] * 50
    assert model._waiting == []


def test_a_task_waits_no_longer_than_told(stage: Stage) -> None:
    model = stage.start("sys.stdin.read()")
    assert asyncio.run(model.wait_ready_async(0.05)) is None
    assert model._waiting == []


def test_a_cancelled_task_leaves_the_queue(stage: Stage) -> None:
    model = stage.start("sys.stdin.read()")

    async def give_up() -> None:
        waiter = asyncio.create_task(model.wait_ready_async(60))
        await asyncio.sleep(0)
        assert len(model._waiting) == 1
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(give_up())
    assert model._waiting == []


def test_a_task_does_not_wait_for_what_is_unavailable(stage: Stage) -> None:
    model = stage.begin(LocalModel(stage.folder / "absent.gguf", command=stage.command("serve()")))
    began = time.monotonic()
    assert asyncio.run(model.wait_ready_async(60)) is None
    assert time.monotonic() - began < 5


def test_a_model_of_ones_own_has_to_be_a_gguf_file(stage: Stage) -> None:
    other = stage.folder / "model.bin"
    model = stage.begin(LocalModel(other, command=stage.command("serve()")))
    assert model.unavailable_reason() == f"there is no model file at {other}"
    other.write_bytes(b"PK\x03\x04")
    until_after_retry(model, lambda: model.unavailable_reason() == f"{other} is not a GGUF file")
    other.write_bytes(b"GGUF....")
    model.retry()
    until(lambda: model.endpoint() is not None)


def test_weights_that_appear_later_are_noticed(stage: Stage) -> None:
    content = b"GGUF and more"
    digest = hashlib.sha256(content).hexdigest()
    source = WeightsSource(
        requirement="tiny==1", wheel_sha256="", member="a/tiny.gguf", gguf_sha256=digest, gguf_bytes=13
    )
    folder = stage.folder / "data"
    command = stage.command("serve()")
    model = stage.begin(
        LocalModel(folder=folder, command=command, source=source, on_change=stage.heard.append)
    )
    missing = "weights are missing: run python -m fallback.local install"
    assert (model.unavailable_reason(), model.state) == (missing, "unavailable")
    folder.mkdir()
    weights_path(folder, source=source).write_bytes(b"GGUF and less")
    damaged = "weights are damaged: run python -m fallback.local install"
    until_after_retry(model, lambda: model.unavailable_reason() == damaged)
    assert stage.starts() == []
    whole = folder / "whole"
    whole.write_bytes(content)
    whole.replace(weights_path(folder, source=source))  # never seen half written
    until_after_retry(model, lambda: model.endpoint() is not None)
    assert stage.heard == [missing, damaged, None]


def test_on_change_is_called_without_a_lock(stage: Stage) -> None:
    seen: list[str | None] = []
    calls = threading.Event()

    def look(_reason: str | None) -> None:
        reader = threading.Thread(target=lambda: seen.append(model.unavailable_reason()))
        reader.start()
        reader.join(5)
        calls.set()

    model = LocalModel(stage.folder / "absent.gguf", command=stage.command("serve()"), on_change=look)
    stage.begin(model)
    assert calls.wait(10)
    assert seen == [f"there is no model file at {stage.folder / 'absent.gguf'}"]


def test_restarts_back_off_to_half_a_minute() -> None:
    assert [backoff_s(n) for n in (1, 2, 3, 6, 7, 8, 10_000)] == [0.5, 1.0, 2.0, 16.0, 30.0, 30.0, 30.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_copy_leaves_the_model_alone(stage: Stage) -> None:
    model = stage.start("serve()")
    assert model.wait_ready(10)
    # Whatever lock some thread holds at the moment of the fork stays locked in the copy for ever.
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with model._changed:
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    copy = os.fork()
    if copy == 0:
        # The runner's own handler would go on with the other tests in this copy.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 5)
        model.close()
        os._exit(0)
    _, status = os.waitpid(copy, 0)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert model.state == "ready"
    assert model.pid is not None
    assert not gone(model.pid)


def test_an_interpreter_that_ends_without_close_takes_the_child_along_quietly(stage: Stage) -> None:
    program = f"""
from pathlib import Path
from fallback.local.model import LocalModel
model = LocalModel(Path({str(stage.gguf)!r}), command={stage.command("serve()")!r})
model.start()
assert model.wait_ready(10)
"""
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert gone(stage.starts()[0][0])


# The real model from here on.


def post(endpoint: Endpoint, **body: object) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"}
    settings = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 160, **body}
    connection.request("POST", "/v1/chat/completions", json.dumps(settings), headers)
    return connection, connection.getresponse()


def ask(endpoint: Endpoint, question: str) -> str:
    connection, response = post(endpoint, messages=[{"role": "user", "content": question}])
    try:
        answer = json.loads(response.read())
    finally:
        connection.close()
    assert response.status == 200, answer
    return str(answer["choices"][0]["message"]["content"])


def refuses_connections(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port or 0), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.local_model
def test_the_real_model_knows_the_capital_of_japan(real_model: LocalModel) -> None:
    endpoint = real_model.wait_ready(60)
    assert endpoint is not None, real_model.unavailable_reason()
    assert "Tokyo" in ask(endpoint, "What is the capital of Japan?")


@pytest.mark.local_model
def test_the_real_model_asks_for_its_key(real_model: LocalModel) -> None:
    endpoint = real_model.wait_ready(60)
    assert endpoint is not None, real_model.unavailable_reason()
    connection, response = post(
        Endpoint(url=endpoint.url, api_key="test-key-not-real"), messages=[{"role": "user", "content": "Hi"}]
    )
    assert response.status == 401
    connection.close()


@pytest.mark.local_model
def test_a_prompt_beyond_the_context_is_refused_not_cut(real_model: LocalModel) -> None:
    endpoint = real_model.wait_ready(60)
    assert endpoint is not None, real_model.unavailable_reason()
    connection, response = post(endpoint, messages=[{"role": "user", "content": "hello world " * 3000}])
    error = json.loads(response.read())["error"]
    connection.close()
    assert (response.status, error["type"]) == (400, "exceed_context_size_error")


@pytest.mark.local_model
def test_a_child_killed_mid_stream_leaves_no_done_and_answers_again_after_a_restart(
    real_model: LocalModel,
) -> None:
    endpoint = real_model.wait_ready(60)
    assert endpoint is not None, real_model.unavailable_reason()
    connection, response = post(
        endpoint,
        messages=[{"role": "user", "content": "Write a very long story."}],
        stream=True,
        max_tokens=2000,
        ignore_eos=True,
    )
    received = response.read1(4096)
    assert real_model.pid is not None
    os.kill(real_model.pid, signal.SIGKILL)
    with pytest.raises(http.client.IncompleteRead) as broken:
        response.read()
    received += broken.value.partial
    connection.close()
    assert b'"content":' in received
    assert b"[DONE]" not in received
    assert b'"finish_reason":"' not in received
    until(lambda: real_model.endpoint() != endpoint)
    again = real_model.wait_ready(60)
    assert again is not None
    assert again != endpoint
    assert "Tokyo" in ask(again, "What is the capital of Japan?")


@pytest.mark.local_model
def test_the_child_dies_with_a_parent_that_is_killed(local_weights: Path) -> None:
    program = f"""
import time
from pathlib import Path
from fallback.local.model import LocalModel
model = LocalModel(folder=Path({str(local_weights.parent)!r}))
model.start()
print(model.wait_ready(60).url, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().decode().strip()
        assert not refuses_connections(url)
        parent.kill()
    until(lambda: refuses_connections(url))


@pytest.mark.local_model
def test_a_damaged_model_is_explained_and_harms_nobody(stage: Stage, local_weights: Path) -> None:
    with local_weights.open("rb") as whole:
        stage.gguf.write_bytes(whole.read(5_000_000))
    model = stage.begin(LocalModel(stage.gguf))
    assert model.wait_ready(60) is None
    reason = model.unavailable_reason()
    assert reason is not None
    assert reason.startswith("the model cannot be loaded: tensor ")
