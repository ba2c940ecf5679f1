"""A function in Python as a peer of the Rust ones' start: three clients of boto3 made at the start, then the Runtime API's
loop, without the few milliseconds that Lambda's own loop in Python adds. An invocation reads one item of a table.
"""

import http.client
import os

import boto3

DYNAMODB = boto3.client("dynamodb")
S3 = boto3.client("s3")
SQS = boto3.client("sqs")


def main():
    runtime = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    while True:
        runtime.request("GET", "/2018-06-01/runtime/invocation/next")
        invocation = runtime.getresponse()
        invocation.read()
        request = invocation.headers["Lambda-Runtime-Aws-Request-Id"]
        found = DYNAMODB.get_item(TableName="table", Key={"id": {"S": "one"}})
        body = '{"found": true}' if "Item" in found else '{"found": false}'
        runtime.request("POST", f"/2018-06-01/runtime/invocation/{request}/response", body)
        runtime.getresponse().read()


if __name__ == "__main__":
    main()
