#!/usr/bin/env python3
"""Serves tenants' config from your own code: `python tenant_config.py unix:/tmp/config.sock`.

Name it in the sidecar's config file: `[[sources]]`, `kind = "grpc"`, `url = "unix:/tmp/config.sock"`.
"""

import asyncio
import sys

import grpc

from tenantd.v1 import tenant_config_service_pb2 as wire
from tenantd.v1 import tenant_config_service_pb2_grpc as services

TENANTS = {"acme": {"cap": 5, "providers": {"llm": {"provider": "openai", "credential": "env:ACME_KEY"}}}}


class TenantConfig(services.TenantConfigServiceServicer):
    async def ResolveTenant(self, request, context):
        response = wire.ResolveTenantResponse()
        if entry := TENANTS.get(request.tenant):  # Your database, your rules. None: no entry.
            response.config.update(entry)
        return response


async def main() -> None:
    server = grpc.aio.server()
    services.add_TenantConfigServiceServicer_to_server(TenantConfig(), server)
    server.add_insecure_port(sys.argv[1])
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
