"""The AWS Lambda functions: one decides on every uploaded film, the other answers the requests of an HTTP API."""
