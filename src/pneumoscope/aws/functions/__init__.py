"""The AWS Lambda functions: one decides on every uploaded film, the other answers an HTTP API."""
