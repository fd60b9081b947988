"""The server that one would write in an afternoon instead: grpc.aio, a dict of
leases, a cap, and the same reply. For `make bench` only."""

import asyncio
import sys
import time

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tenantd.v1 import provider_pb2, session_pb2, session_service_pb2, session_service_pb2_grpc

CAP = 1_000_000
TTL = 60.0
KEY = "sk-0123456789abcdef0123456789abcdef0123456789abcdef"


def provider(name, model):
    made = provider_pb2.Provider(provider=name, model=model)
    made.credentials["api_key"].value = KEY
    made.params["temperature"] = 0.5
    return made


CONFIG = provider_pb2.SessionConfig(
    version="0123456789abcdef",
    providers={
        "stt": provider("deepgram", "nova-3"),
        "llm": provider("openai", "gpt-4.1"),
        "tts": provider("cartesia", "sonic-2"),
    },
    labels={"plan": "gold"},
    tenant_known=True,
)


def stamp(at):
    return Timestamp(seconds=int(at), nanos=int(at % 1 * 1e9))


class Sessions(session_service_pb2_grpc.SessionServiceServicer):
    def __init__(self):
        self.leases = {}

    async def AcquireSession(self, request, context):
        tenant = self.leases.setdefault(request.tenant, {})
        now = time.time()
        while tenant:
            oldest = next(iter(tenant.values()))
            if oldest > now:
                break
            tenant.pop(next(iter(tenant)))
        if request.session_id not in tenant and len(tenant) >= CAP:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        tenant[request.session_id] = now + TTL
        session = session_pb2.Session(
            session_id=request.session_id,
            tenant=request.tenant,
            agent_name=request.agent_name,
            worker=request.worker,
            state=session_pb2.SESSION_STATE_ACTIVE,
            acquire_time=stamp(now),
            expire_time=stamp(now + TTL),
            ttl=Duration(seconds=int(TTL)),
        )
        return session_service_pb2.AcquireSessionResponse(
            session=session, config=CONFIG, created=True
        )

    async def ReleaseSession(self, request, context):
        for tenant in self.leases.values():
            if tenant.pop(request.session_id, None) is not None:
                return session_service_pb2.ReleaseSessionResponse(outcome=request.outcome)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such session")


async def main(path):
    server = grpc.aio.server()
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(Sessions(), server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    await server.wait_for_termination()


asyncio.run(main(sys.argv[1]))
