"""Attack a model and say what its robustness was worth, with nothing but grpcio and the generated code.

python examples/evaluate.py ATTACK_ADDRESS SURVIVAL_ADDRESS [MODEL]
"""

import sys

import grpc
from afr.attack.v1 import attack_service_pb2, attack_service_pb2_grpc
from afr.survival.v1 import survival_service_pb2, survival_service_pb2_grpc

attack_address, survival_address, model = [*sys.argv[1:], "resnet50"][:3]
with grpc.insecure_channel(attack_address) as to_attack, grpc.insecure_channel(survival_address) as to_survival:
    attacks = attack_service_pb2_grpc.AttackServiceStub(to_attack)
    spec = attack_service_pb2.AttackSpec(model=model, attack="pgd")
    job = attacks.CreateAttackJob(attack_service_pb2.CreateAttackJobRequest(spec=spec)).attack_job
    survival = survival_service_pb2_grpc.SurvivalServiceStub(to_survival)
    request = survival_service_pb2.CreateReportRequest(attack_job_ids=[job.attack_job_id])
    for response in survival.CreateReport(request):
        if response.HasField("progress"):
            print(f"{response.progress.outcome_count} samples, {response.progress.failed_count} failed")
    print(survival_service_pb2.Conclusion.Name(response.report.conclusion), "-", response.report.summary)
