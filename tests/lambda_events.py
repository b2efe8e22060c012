"""Events in the form that AWS passes to functions: from S3, EventBridge and API Gateway's two kinds of API."""

import base64
import uuid
from typing import Any
from urllib.parse import quote_plus


def from_eventbridge(bucket: str, key: str, *, version: str | None = None, sequencer: str = "0A1B") -> dict[str, Any]:
    """EventBridge's "Object Created" ("Event message structure for EventBridge"); the key is not encoded."""
    stored = {"key": key, "size": 5, "etag": "b1946ac92492d2347c6235b4d2611184", "sequencer": sequencer}
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": "123456789012",
        "time": "2026-11-23T09:00:00Z",
        "region": "eu-central-1",
        "resources": [f"arn:aws:s3:::{bucket}"],
        "detail": {
            "version": "0",
            "bucket": {"name": bucket},
            "object": stored | ({} if version is None else {"version-id": version}),
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "source-ip-address": "1.2.3.4",
            "reason": "PutObject",
        },
    }


def from_s3(bucket: str, *keys: str, version: str | None = None, sequencer: str = "0A1B") -> dict[str, Any]:
    """S3's own notification ("Event message structure"), with a record per key; keys are form-encoded."""
    return {"Records": [_s3_record(bucket, key, version, sequencer) for key in keys]}


def _s3_record(bucket: str, key: str, version: str | None, sequencer: str) -> dict[str, Any]:
    stored = {"key": quote_plus(key, safe="/"), "size": 5, "eTag": "b194", "sequencer": sequencer}
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-central-1",
        "eventTime": "2026-11-23T09:00:00.000Z",
        "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": "AWS:AIDA"},
        "requestParameters": {"sourceIPAddress": "1.2.3.4"},
        "responseElements": {"x-amz-request-id": "D82B88E5F771F645", "x-amz-id-2": "vlR7"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "films",
            "bucket": {"name": bucket, "ownerIdentity": {"principalId": "A3NL"}, "arn": f"arn:aws:s3:::{bucket}"},
            "object": stored | ({} if version is None else {"versionId": version}),
        },
    }


def from_http_api(method: str, path: str, body: bytes | str | None = None, **headers: str) -> dict[str, Any]:
    """A request as passed by an HTTP API, payload version 2.0; a body of bytes is base64."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "api.example", **_header_names(headers)},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api",
            "domainName": "api.example",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "1.2.3.4", "userAgent": "t"},
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "23/Nov/2026:09:00:00 +0000",
            "timeEpoch": 1795424400000,
        },
        **_body_fields(body),
    }


def from_rest_api(method: str, path: str, body: bytes | str | None = None, **headers: str) -> dict[str, Any]:
    """A request as passed by a REST API, payload version 1.0; a body of bytes is base64."""
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": {"Host": "api.example", **_header_names(headers)},
        "multiValueHeaders": {
            "Host": ["api.example"],
            **{name: [value] for name, value in _header_names(headers).items()},
        },
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api",
            "httpMethod": method,
            "identity": {"sourceIp": "1.2.3.4"},
            "path": f"/prod{path}",
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "resourcePath": "/{proxy+}",
            "stage": "prod",
        },
        **_body_fields(body),
    }


def _header_names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _body_fields(body: bytes | str | None) -> dict[str, Any]:
    if isinstance(body, bytes):
        return {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
    return {"body": body, "isBase64Encoded": False}
