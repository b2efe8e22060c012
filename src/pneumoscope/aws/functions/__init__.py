"""Inside a Lambda: one function reads every uploaded film, the other one answers an HTTP API."""
