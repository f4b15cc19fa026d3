"""Switches, drills, provider order and cooldowns: shared between processes, kept across restarts.

Theory of operation: a store is a small map from paths ("switch/groq_llama", "breaker/groq_llama/some-model") to JSON
objects. Every process keeps all of it in memory, so that a request asks no database; `put` changes the memory at once
and leaves the writing to a background thread, which also takes in what other processes wrote and tells `on_change`.
Every write gets the store's next revision, and the highest revision of a key is the truth. Layers, leaf first: `entry`
holds the values and the interface, `ledger` the memory of one process and the rules of a conflict, `claims` what one process
at a time may do, `file` one SQLite file, `exchange` one round between the two, `server` and `server_exchange` the same for
a Valkey or Redis server, `sharing` the thread around either, `sqlite` and `redis_store` the stores. docs/state.md says what
holds. `redis_store` is imported by whoever needs it: the client library takes its time.

What may not live here: what the entries mean (the router knows), prompts, answers, and keys of any kind.
"""

from fallback.state.entry import JSON, Claim, Entry, Merge, OnChange, StateStore, Value, keep_latest
from fallback.state.memory import MemoryStateStore
from fallback.state.sqlite import SQLiteStateStore

__all__ = [
    "JSON",
    "Claim",
    "Entry",
    "MemoryStateStore",
    "Merge",
    "OnChange",
    "SQLiteStateStore",
    "StateStore",
    "Value",
    "keep_latest",
]
