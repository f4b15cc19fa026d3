"""The only place that opens connections to providers.

Theory of operation: a transport sends one request and gives back a response whose body is read piece by piece, each
read with a limit of its own. Every way in which that can fail is a TransportError; exceptions of the libraries end here.
`sync` works with requests (over `connections`, ended by `watchdog`), `direct` with connections of its own (`http1`, whose
parser is httptools), `asynchronous` with aiohttp, which `direct` leaves proxies to; all look names up through `names`,
refuse redirects, keep no cookies, and pool connections.

What may not live here: the meaning of a status or a body (providers), limits other than time (providers).
"""

from fallback.transport.base import AsyncResponse, AsyncTransport, Cancellation, Head, Response, Transport

__all__ = ["AsyncResponse", "AsyncTransport", "Cancellation", "Head", "Response", "Transport"]
