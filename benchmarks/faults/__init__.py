"""Every fault of the stand-in against the router, and what is promised of it, measured.

    python -m benchmarks.faults            print it
    python -m benchmarks.faults --write    put the table into docs/faults.md as well

Two providers with default settings, the second one healthy, 60 numbered words. Each fault is asked in four ways: through
ModelRouter and through the HTTP API on a real socket, streamed and plain. `stage` asks, `table` lists the faults, `outages`
plays what takes minutes or a crowd, `report` makes text of it. It takes about two and a half minutes.
"""
