"""How many bytes each way into AWS takes. Sources are named, as these change."""

MEBIBYTE = 1 << 20
#: InvokeEndpoint's body, by boto3's service model of sagemaker-runtime; newer documents speak of 25 MB.
REALTIME = 6 * MEBIBYTE
#: "Amazon SageMaker endpoints and quotas", serverless inference.
SERVERLESS = 4 * MEBIBYTE
#: InvokeEndpointAsync takes up to 1 GB out of S3, but the service behind it no more than this of any film.
ASYNCHRONOUS = 50_000_000
#: "Lambda quotas", payload of a synchronous call; a binary body arrives in it as base64, four thirds as long.
LAMBDA = 6 * MEBIBYTE
#: What is left of that for a film, beside the event's other fields.
API_FILM = (LAMBDA - 64 * 1024) * 3 // 4
