"""What infra/stack.sh asks of AWS and of its settings: stack.py COMMAND. Runs in the environment of the SAM CLI.

    parameters ENV [NAME=VALUE...]  the parameters of an environment of samconfig.toml as `sam deploy` takes them, with these
                                    in place of its own
    outputs STACK                   the stack's outputs as NAME=VALUE, for `. FILE` of a shell
    bend STACK                      what an emulator takes differently from AWS, after the deployment: see there
    users STACK                     makes users of an emulator, a key each, and prints both as NAME=VALUE
"""

import json
import re
import sys
import tomllib

import boto3

BATCHED = ["sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]


def parameters(environment, *over):
    with open("samconfig.toml", "rb") as file:
        config = tomllib.load(file)
    if environment not in config:
        sys.exit(f"samconfig.toml has no environment {environment}")
    chosen = dict(each.split("=", 1) for each in config[environment]["deploy"]["parameters"]["parameter_overrides"])
    chosen.update(each.split("=", 1) for each in over)
    for name, value in chosen.items():
        print(f"{name}={value}")


def of_stack(stack):
    described = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}


def outputs(stack):
    found = of_stack(stack)
    # What a worker outside of AWS finds in its environment, as infra/cluster.yaml tells it to tasks.
    for name, output in [
        ("SWITCHYARD_TABLE", "Table"),
        ("SWITCHYARD_QUEUES", "QueuePrefix"),
        ("SWITCHYARD_BUCKET", "Blobs"),
        ("SWITCHYARD_LOG_GROUP", "RunLogs"),
        ("SWITCHYARD_BUS", "Bus"),
        ("SWITCHYARD_RETENTION_DAYS", "RetentionDays"),
        ("POLICY_BUCKET", "PoliciesBucket"),
    ]:
        print(f"{name}={found[output]}")
    for output, value in sorted(found.items()):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", output).upper()
        print(f"STACK_{name}={value}")


def bend(stack):
    found = of_stack(stack)
    # Buckets refuse what does not come over TLS, and the emulator speaks plain HTTP.
    for bucket in ["Blobs", "PoliciesBucket", "DropBox"]:
        boto3.client("s3").delete_bucket_policy(Bucket=found[bucket])
    # To SQS a batch needs the permission of its entries, to the emulator one of its own. To ECS a call is about tasks and
    # definitions in a cluster, to the emulator about the cluster.
    iam = boto3.client("iam")
    for page in iam.get_paginator("list_policies").paginate(Scope="Local"):
        for policy in page["Policies"]:
            version = iam.get_policy_version(PolicyArn=policy["Arn"], VersionId=policy["DefaultVersionId"])
            document = version["PolicyVersion"]["Document"]
            before = json.dumps(document)
            for statement in document["Statement"]:
                actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
                batches = [f"{action}Batch" for action in actions if action in BATCHED]
                statement["Action"] = actions + batches
                if "ecs:cluster" in json.dumps(statement.get("Condition", {})):
                    statement["Resource"] = statement.pop("Condition")["ArnEquals"]["ecs:cluster"]
            if json.dumps(document) != before:
                iam.create_policy_version(
                    PolicyArn=policy["Arn"], PolicyDocument=json.dumps(document), SetAsDefault=True
                )


def users(stack):
    found = of_stack(stack)
    iam = boto3.client("iam")
    for role, policies in [
        ("operator", found["OperatorsPolicy"]),
        ("submitter", found["SubmittersPolicy"]),
        ("viewer", found["ViewersPolicy"]),
        ("worker", found["WorkerPolicies"]),
    ]:
        user = f"{found['QueuePrefix']}-{role}"
        iam.create_user(UserName=user)
        for policy in policies.split(","):
            iam.attach_user_policy(UserName=user, PolicyArn=policy)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        print(f"{role.upper()}_ACCESS_KEY_ID={key['AccessKeyId']}")
        print(f"{role.upper()}_SECRET_ACCESS_KEY={key['SecretAccessKey']}")


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    {"parameters": parameters, "outputs": outputs, "bend": bend, "users": users}[command](*rest)
