"""What infra/stack.sh asks of AWS and of its settings: stack.py COMMAND. Runs in the environment of the SAM CLI.

    parameters ENV [NAME=VALUE...]  the parameters of an environment of samconfig.toml as `sam deploy` takes them, with these
                                    in place of its own
    outputs STACK                   the stack's outputs as NAME=VALUE, for `. FILE` of a shell
    remember STACK                  keeps the stack's template and parameters, as they are, for a rollback; nothing where
                                    there is no such stack
    rollback STACK                  deploys the last remembered that is another than what is there, which it remembers
    bend STACK                      what an emulator takes differently from AWS, after the deployment: see there
    users STACK                     makes users of an emulator, a key each, and a role that jobs borrow; prints the keys as NAME=VALUE
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
        ("SWITCHYARD_BROKER", "CredentialBrokerFunction"),
        ("SWITCHYARD_RECORD_STREAM", "RecordStream"),
        ("POLICY_BUCKET", "PoliciesBucket"),
    ]:
        print(f"{name}={found[output]}")
    for output, value in sorted(found.items()):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", output).upper()
        print(f"STACK_{name}={value}")


REMEMBERED = "deployed/before.json"


def described(stack):
    client = boto3.client("cloudformation")
    try:
        found = client.describe_stacks(StackName=stack)["Stacks"][0]
    except client.exceptions.ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    if found["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"):
        return None
    return found


def of_now(stack, found):
    # As it was sent: with the functions' code and the nested templates at the places in a bucket that bear their hash.
    template = boto3.client("cloudformation").get_template(StackName=stack, TemplateStage="Original")["TemplateBody"]
    chosen = {each["ParameterKey"]: each["ParameterValue"] for each in found.get("Parameters", [])}
    return {"version": 1, "template": template if isinstance(template, str) else json.dumps(template), "parameters": chosen}


# A version of this object for each: the bucket of policies keeps all of them.
def keep(bucket, what):
    boto3.client("s3").put_object(Bucket=bucket, Key=REMEMBERED, Body=json.dumps(what).encode())


def remembered(bucket):
    """What was kept, the latest first."""
    client = boto3.client("s3")
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=REMEMBERED):
        for version in page.get("Versions", []):
            got = client.get_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
            yield json.loads(got["Body"].read())


def remember(stack):
    found = described(stack)
    if found:
        keep(of_stack(stack)["PoliciesBucket"], of_now(stack, found))


def rollback(stack):
    found = described(stack)
    if not found:
        sys.exit(f"there is no stack {stack} that could be rolled back, or it is being changed")
    bucket = of_stack(stack)["PoliciesBucket"]
    now = of_now(stack, found)
    # The latest may be what is there: a deployment that changed nothing, failed, or was not confirmed has kept it, too.
    before = next((each for each in remembered(bucket) if each != now), None)
    if not before:
        sys.exit(f"nothing is remembered of stack {stack} that is another than what is there")
    # First, so that the way forth is known however the way back ends.
    keep(bucket, now)
    cloudformation = boto3.client("cloudformation")
    cloudformation.update_stack(
        StackName=stack,
        TemplateBody=before["template"],
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in before["parameters"].items()],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    cloudformation.get_waiter("stack_update_complete").wait(StackName=stack, WaiterConfig={"Delay": 2, "MaxAttempts": 900})
    print(f"stack {stack} is what it was before its last deployment")


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
                statement["Action"] = actions + [batch for batch in batches if batch not in actions]
                if "ecs:cluster" in json.dumps(statement.get("Condition", {})):
                    statement["Resource"] = statement.pop("Condition")["ArnEquals"]["ecs:cluster"]
            if json.dumps(document) != before:
                # A policy has at most five versions, and each deployment makes one: those in force before are not needed.
                for old in iam.list_policy_versions(PolicyArn=policy["Arn"])["Versions"]:
                    if not old["IsDefaultVersion"]:
                        iam.delete_policy_version(PolicyArn=policy["Arn"], VersionId=old["VersionId"])
                iam.create_policy_version(
                    PolicyArn=policy["Arn"], PolicyDocument=json.dumps(document), SetAsDefault=True
                )


def users(stack):
    found = of_stack(stack)
    iam = boto3.client("iam")
    # What the broker may assume for jobs.
    trust = {"Effect": "Allow", "Principal": {"AWS": found["CredentialBrokerRole"]},
             "Action": ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"]}
    iam.create_role(RoleName=f"{found['QueuePrefix']}-lent",
                    AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}))
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
    {
        "parameters": parameters,
        "outputs": outputs,
        "remember": remember,
        "rollback": rollback,
        "bend": bend,
        "users": users,
    }[command](*rest)
