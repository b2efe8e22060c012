"""The service: bytes of a film over HTTP, the engine's decision back, and a page for people.

`routes` is the API, `films` reads what is posted, `service` holds the engine and its bounded queue, `boundary` is
what every request passes (id, headers, log), `page` serves the page, `run` starts and stops it all.
"""
