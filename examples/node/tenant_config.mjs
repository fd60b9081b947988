/**
 * Serves tenants' config from your own code: `node tenant_config.mjs unix:/tmp/config.sock`.
 *
 * Name it in the sidecar's config file: `[[sources]]`, `kind = "grpc"`, `url = "unix:/tmp/config.sock"`.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { TenantConfigService } from "@tenantd/client/proto";

const TENANTS = { acme: { cap: 5, providers: { llm: { provider: "openai", credential: "env:ACME_KEY" } } } };

const { input, output } = TenantConfigService.method.resolveTenant;
const definition = {
  resolveTenant: {
    path: `/${TenantConfigService.typeName}/ResolveTenant`,
    requestStream: false,
    responseStream: false,
    requestDeserialize: (bytes) => fromBinary(input, bytes),
    responseSerialize: (message) => Buffer.from(toBinary(output, message)),
  },
};

const server = new Server();
server.addService(definition, {
  // Your database, your rules. Without a config the tenant has no entry.
  resolveTenant: ({ request }, reply) => reply(null, create(output, { config: TENANTS[request.tenant] })),
});
server.bindAsync(process.argv[2], ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
