"""Attack a model and say what its robustness was worth, with nothing but gRPC and the generated code.

python examples/evaluate.py ATTACK_ADDRESS SURVIVAL_ADDRESS ['{"model": "resnet50", "attack": "pgd"}']
"""

import sys

import grpc
from afr.attack.v1 import attack_service_pb2, attack_service_pb2_grpc
from afr.survival.v1 import survival_service_pb2, survival_service_pb2_grpc
from google.protobuf import json_format

attack_address, survival_address, spec = [*sys.argv[1:], '{"model": "resnet50", "attack": "pgd"}'][:3]
with grpc.insecure_channel(attack_address) as to_attack, grpc.insecure_channel(survival_address) as to_survival:
    attacks = attack_service_pb2_grpc.AttackServiceStub(to_attack)
    create_job = attack_service_pb2.CreateAttackJobRequest()
    job = attacks.CreateAttackJob(json_format.Parse(f'{{"spec": {spec}}}', create_job)).attack_job
    survival = survival_service_pb2_grpc.SurvivalServiceStub(to_survival)
    create_report = survival_service_pb2.CreateReportRequest(attack_job_ids=[job.attack_job_id])
    for response in survival.CreateReport(create_report):
        if response.HasField("progress"):
            print(f"{response.progress.outcome_count} samples, {response.progress.failed_count} failed")
    print(survival_service_pb2.Conclusion.Name(response.report.conclusion), "-", response.report.summary)
