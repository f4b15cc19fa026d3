"""What the HTTP API costs and carries, beside other gateways where they are installed.

    python -m benchmarks.gateway [--only throughput,latency,streams,failover,workers] [--seconds 3] [--rounds 3]
                                 [--litellm PATH] [--portkey PATH] [--smg PATH]

Every gateway is a process of its own in front of one upstream (`upstream`), and so is the load (`load`). Rounds go over all of
them in turn, so that what else the machine does hits everybody, and the best round of each counts. `--litellm` is the command
`litellm` of an environment with `litellm[proxy]`, `--portkey` the file build/start-server.js of the package
@portkey-ai/gateway (needs node), `--smg` the command `smg` of an environment with that package, which is written in Rust.
Peers pass a plain call on as a plain one: "plain" is `stream_upstream: false`, and "default" what this program does otherwise. All traffic stays on loopback; Linux only, because of /proc.
"""
