"""The service: the bytes of a film arrive over HTTP, the engine's decision goes back; and a web page.

`routes` is the API, `sagemaker` the routes of SageMaker's contract, `uploads` reads request bodies, `service` owns the
engine and its bounded queue, `boundary` is the middleware around every request (id, headers, log), `web_page` serves
the page, `supervisor` starts and stops the processes.
"""
