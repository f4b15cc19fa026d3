"""One Valkey or Redis server that holds shared state: its keys, its scripts, and what its failures mean.

Theory of operation: all entries are fields of one hash, `PREFIXentries`, each a revision, a blank, and JSON. A write is one
script: where every key still has the revision that the writer decided upon it writes all of them, else nothing, and
returns what stands there instead. Revisions are instants, microseconds of the server's clock and always more than the last
one, so that none is ever used twice, also where the server forgot everything or fell back to an older copy of itself:
of two entries of one key the one with the higher revision is always the newer one. `PREFIXstamp` is the instant of the
last write, and "has anything changed" one small question; the same number goes out on the channel `PREFIXchanges`.
A claim is a key of its own that the server lets go by itself.

Every command used is known to Valkey 7.2 and to Redis since 6.0. A call waits ANSWER_S seconds at most for a connection, and
as long for an answer.

What may not live here: who wins a conflict (`ledger.settle`), retries, threads, the URL's password in any text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as NoAnswerInTime
from redis.retry import Retry

from fallback.providers.settings import Secret
from fallback.state.entry import Entry, decoded_value, encoded_value

__all__ = ["FAILURES", "Server", "Stored", "Write", "Written", "connect", "described", "is_refusal"]

ANSWER_S = 1.0

FAILURES = (RedisError, OSError)

_WRITE = """
local standing = {}
for i = 2, #ARGV, 4 do
  local have = redis.call('HGET', KEYS[1], ARGV[i])
  local revision = have and string.match(have, '^(%d+) ') or '0'
  if revision ~= ARGV[i + 1] then
    standing[#standing + 1] = ARGV[i]
    standing[#standing + 1] = have or ''
  end
end
if #standing > 0 then return {0, standing} end
local before = redis.call('GET', KEYS[2]) or ''
local time = redis.call('TIME')
local stamp = math.max((tonumber(before) or 0) + 1, time[1] * 1000000 + time[2])
for i = 2, #ARGV, 4 do
  stamp = math.max(stamp, (tonumber(ARGV[i + 2]) or 0) + 1)
end
local revisions = {}
for i = 2, #ARGV, 4 do
  local revision = ARGV[i + 2]
  if revision == '' then
    revision = string.format('%.0f', stamp)
    stamp = stamp + 1
  end
  if revision == '-' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  elseif revision ~= '=' then
    redis.call('HSET', KEYS[1], ARGV[i], revision .. ' ' .. ARGV[i + 3])
  end
  revisions[#revisions + 1] = revision
end
local after = string.format('%.0f', stamp)
redis.call('SET', KEYS[2], after)
redis.pcall('PUBLISH', ARGV[1], after)
return {1, before, after, revisions}
"""
"""KEYS: entries, stamp. ARGV: the channel, then for each key: key, revision expected ("0": none), revision to be given ("": a
new one, "-": remove it, "=": leave it), JSON."""

_KEEP = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX')
end
"""
_FREE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


_REFUSALS: Mapping[str, str] = {
    "NOAUTH": "it asks for a password",
    "NOPERM": "its user may not do what is needed",
    "OOM": "its memory is full",
    "READONLY": "it is a replica that takes no writes",
    "MISCONF": "it cannot save its data and takes no writes",
    "NOREPLICAS": "too few of its replicas are there",
    "MASTERDOWN": "it is a replica without its primary",
    **dict.fromkeys(("MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT"), "it is a cluster, which is not supported"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One key of a write."""

    key: str
    expected: int
    """The revision that stands there as far as the writer knows; 0: nothing does."""
    entry: Entry | None = None
    """What is to stand there, under its own revision, or a new one where that is 0. None: what stands there."""
    remove: bool = False
    """Whether the key is to go, tombstone and all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of a write: nothing was written where `standing` is not None."""

    entries: Mapping[str, Entry]
    """What was written, by key."""
    before: str = ""
    """The stamp before the write, and after it."""
    after: str = ""
    standing: Mapping[str, Entry | None] | None = None
    """The keys that have another revision than expected, and what stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """All that the server holds, tombstones included."""

    stamp: str
    entries: Mapping[str, Entry]


def connect(url: Secret) -> redis.Redis:
    """Return a client that waits for nothing longer than ANSWER_S. Opens no connection yet. Raises ValueError."""
    return redis.Redis.from_url(
        url.reveal(),
        protocol=2,  # all that is needed, and every server knows it
        socket_timeout=ANSWER_S,
        socket_connect_timeout=ANSWER_S,
        retry=Retry(NoBackoff(), 0),
    )


class Server:
    """One connection, for one thread at a time. Every method raises what FAILURES names."""

    def __init__(self, client: Callable[[], redis.Redis], prefix: str) -> None:
        self._client: Any = client()
        self._entries = f"{prefix}entries"
        self._stamp = f"{prefix}stamp"
        self._changes = f"{prefix}changes"
        self._claims = f"{prefix}claim:"
        self._read: dict[bytes, tuple[bytes, Entry | None]] = {}
        self._spoilt: dict[bytes, str] = {}
        """The revisions that the script finds where nobody else would."""

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def stamp(self) -> str:
        """Return the stamp of the last write; empty where there was none."""
        return _text(self._client.get(self._stamp))

    def everything(self) -> Stored:
        """Return all that the server holds."""
        # No transaction: a server without memory refuses those. The stamp comes first, so at worst what was written between
        # the two is read twice.
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.get(self._stamp)
            pipeline.hgetall(self._entries)
            stamp, fields = pipeline.execute()
        # Most of it is what it was the last time.
        before, self._read = self._read, {}
        for key, record in fields.items():
            known = before.get(key)
            self._read[key] = (
                known if known is not None and known[0] == record else (record, _entry(key, record))
            )
        self._spoilt = {
            key: _revision(record) for key, (record, entry) in self._read.items() if entry is None
        }
        entries = [entry for _, entry in self._read.values() if entry is not None]
        return Stored(stamp=_text(stamp), entries={entry.key: entry for entry in entries})

    def write(self, writes: Sequence[Write]) -> Written:
        """Write all of `writes`, or none where one of the keys has another revision than expected."""
        arguments: list[str] = [self._changes]
        for write in writes:
            expected = str(write.expected or self._spoilt.get(write.key.encode(), 0))
            arguments += [write.key, expected, *_wanted(write)]
        reply = self._client.eval(_WRITE, 2, self._entries, self._stamp, *arguments)
        if not reply[0]:
            standing: dict[str, Entry | None] = {}
            for key, record in zip(reply[1][::2], reply[1][1::2], strict=True):
                entry = standing[key.decode()] = _entry(key, record)
                if entry is None:
                    self._spoilt[key] = _revision(record)
            return Written(entries={}, standing=standing)
        _, before, after, revisions = reply
        entries = {
            write.key: replace(write.entry, revision=int(revision))
            for write, revision in zip(writes, revisions, strict=True)
            if write.entry is not None
        }
        return Written(entries=entries, before=_text(before), after=_text(after))

    def take(self, name: str, owner: str, hold_s: float) -> bool:
        """Grant `name` to `owner` for `hold_s` seconds; False where another one has it."""
        key, length_ms = self._claims + name, int(hold_s * 1000)
        if self._client.set(key, owner, nx=True, px=length_ms):
            return True
        return bool(_text(self._client.get(key)) == owner)

    def keep(self, name: str, owner: str, hold_s: float) -> None:
        """Let `owner` have `name` for `hold_s` seconds from now, where nobody else has it by now."""
        self._client.eval(_KEEP, 1, self._claims + name, owner, str(int(hold_s * 1000)))

    def free(self, name: str, owner: str) -> None:
        """Let everybody have `name`, where it is `owner` who has it."""
        self._client.eval(_FREE, 1, self._claims + name, owner)


def is_refusal(error: BaseException) -> bool:
    """Return whether the server answered, and did not do what it was asked: the connection is good."""
    return isinstance(error, ResponseError)


def described(error: BaseException) -> str:
    """Return what happened in words of this program: what a server says may quote what it was sent, the password too."""
    match error:
        case BusyLoadingError():
            return "it is loading its data"
        case AuthenticationError() if "required" in str(error):
            return _REFUSALS["NOAUTH"]
        case AuthenticationError() | AuthorizationError():
            return "user name or password are wrong"
        case NoPermissionError():
            return _REFUSALS["NOPERM"]
        case OutOfMemoryError():
            return _REFUSALS["OOM"]
        case ReadOnlyError():
            return _REFUSALS["READONLY"]
        case NoAnswerInTime() | TimeoutError():
            return f"no answer within {ANSWER_S:g} s"
        case ResponseError():
            return _refusal(str(error))
        case _:
            return "no connection" + _reason(error)


def _refusal(text: str) -> str:
    # Inside a script the word of the error that matters comes last, and another one first.
    words = set(text.replace("-", " ").split())
    for word, meaning in _REFUSALS.items():
        if word in words:
            return meaning
    return _REFUSALS["NOPERM"] if "can't run this command" in text else "it refused a command"


def _reason(error: BaseException) -> str:
    """Return what the system says, in brackets, from the first error of the chain that has it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return f" ({cause.strerror})"
        cause = cause.__cause__ or cause.__context__
    return ""


def _wanted(write: Write) -> tuple[str, str]:
    """Return the revision to be given and the JSON, as the script wants them."""
    if write.remove:
        return "-", ""
    entry = write.entry
    if entry is None:
        return "=", ""
    text = encoded_value(entry.value)
    record = json.dumps({"by": entry.by, "at": entry.at, "origin": entry.origin}, separators=(",", ":"))
    return str(entry.revision or ""), record[:-1] + f',"value":{text or "null"}}}'


def _entry(key: bytes, record: bytes) -> Entry | None:
    """Return the entry of a field; None where there is none, or something else than this program has written it."""
    revision, _, text = record.partition(b" ")
    if not revision.isdigit():
        return None
    try:
        fields = decoded_value(text.decode())
        name = key.decode()
    except ValueError:
        return None
    match fields:
        case {
            "value": dict() | None as value,
            "by": str(by),
            "at": float() | int() as at,
            "origin": str(origin),
        }:
            return Entry(key=name, value=value, by=by, at=at, revision=int(revision), origin=origin)
        case _:
            return None


def _revision(record: bytes) -> str:
    """Return what the script takes for the revision of a record."""
    digits, blank, _ = record.partition(b" ")
    return digits.decode() if blank and digits.isdigit() else "0"


def _text(reply: bytes | None) -> str:
    return "" if reply is None else reply.decode()
