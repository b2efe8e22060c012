"""How many bytes each way into AWS takes. Sources are named, as these change."""

MEBIBYTE = 1 << 20
#: InvokeEndpoint's body, by boto3's service model of sagemaker-runtime; newer documents speak of 25 MB.
REALTIME = 6 * MEBIBYTE
#: "Amazon SageMaker endpoints and quotas", serverless inference.
SERVERLESS = 4 * MEBIBYTE
#: InvokeEndpointAsync reads its input from S3.
ASYNCHRONOUS = 1 << 30
#: "Lambda quotas", payload of a synchronous call; a binary body arrives in it as base64, four thirds as long.
LAMBDA = 6 * MEBIBYTE
#: What is left of that for a film, beside the event's other fields.
API_FILM = (LAMBDA - 64 * 1024) * 3 // 4
