"""The API that clients of OpenAI speak, under /v1: chat completions and the list of models.

https://platform.openai.com/docs/api-reference/chat

Theory of operation: `wanted` turns a body into what is asked, `completion` an answer into one body, `chunks` its pieces into
events, `stream` writes those, `errors` has OpenAI's words for what went wrong, `models` lists what may be asked for, and
`route` receives and sends. All of it is plain ASGI, and what is sent is built once: a request costs the program little.

What may not live here: who is asked and what follows from a failure (router); what the routes under /api look like.
"""

from fallback.api.openai.errors import error_reply_of
from fallback.api.openai.route import openai_routes

__all__ = ["error_reply_of", "openai_routes"]
