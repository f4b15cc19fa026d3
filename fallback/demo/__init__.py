"""The demo: the program with simulated providers, so that everything it does can be seen without a key.

A stand-in server on this machine plays the cloud providers of providers.yaml under their names, with their speeds and an
outage now and then, while a few questions are asked all the time. Log and state live in a temporary folder; no key is
read and nothing leaves the machine. The outages are the stand-in's, so the program meets them as it would meet real ones.

The log begins with a day that never was (`history`), so that the pages about the past have something to show at once.

`stage` turns the configuration into one of simulated providers, `voice` gives them something to say, `outages` is what
befalls them, `visitors` are the questions, `play` puts it together.
"""

from fallback.demo.play import Demo

__all__ = ["Demo"]
