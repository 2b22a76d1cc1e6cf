"""Follows an event stream by one library: prints the type of each event as soon as the library
hands it over, and how the stream ended."""

import sys


def requests_lines(url):
    import requests

    with requests.get(url, stream=True) as response:
        response.raise_for_status()
        yield from kinds(response.iter_lines(decode_unicode=True))


def sseclient(url):
    import requests
    import sseclient as library

    with requests.get(url, stream=True, headers={"Accept": "text/event-stream"}) as response:
        response.raise_for_status()
        for event in library.SSEClient(response).events():
            yield event.event


def httpx(url):
    import httpx as library

    with library.stream("GET", url, timeout=None) as response:
        response.raise_for_status()
        yield from kinds(response.iter_lines())


def kinds(lines):
    for line in lines:
        if line.startswith("event: "):
            yield line.removeprefix("event: ")


by = {"requests": requests_lines, "sseclient": sseclient, "httpx": httpx}
library, url = sys.argv[1:]
try:
    for kind in by[library](url):
        print("event", kind, flush=True)
    print("end")
except Exception as error:
    print("error", type(error).__name__, error)
