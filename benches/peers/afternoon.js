// The server that one would write in an afternoon instead: grpc-js, a Map of
// leases, a cap, and the same reply. For `make bench` only.
const path = require("node:path");
const client = path.join(__dirname, "../../clients/node");
const from = (name) => require(require.resolve(name, { paths: [client] }));
const { Server, ServerCredentials, status } = from("@grpc/grpc-js");
const { create, fromBinary, toBinary } = from("@bufbuild/protobuf");
const pb = require(path.join(client, "dist/gen/tenantd/v1/session_service_pb.js"));

const CAP = 1_000_000;
const TTL = 60_000;
const KEY = "sk-0123456789abcdef0123456789abcdef0123456789abcdef";
const provider = (name, model) => ({
  provider: name,
  model,
  credentials: { api_key: { value: KEY } },
  params: { temperature: 0.5 },
});
const config = {
  version: "0123456789abcdef",
  providers: {
    stt: provider("deepgram", "nova-3"),
    llm: provider("openai", "gpt-4.1"),
    tts: provider("cartesia", "sonic-2"),
  },
  labels: { plan: "gold" },
  tenantKnown: true,
};
const stamp = (ms) => ({ seconds: BigInt(Math.floor(ms / 1000)), nanos: (ms % 1000) * 1e6 });
const tenants = new Map();

const calls = {
  acquireSession(asked) {
    let leases = tenants.get(asked.tenant);
    if (!leases) tenants.set(asked.tenant, (leases = new Map()));
    const now = Date.now();
    for (const [id, until] of leases) {
      if (until > now) break;
      leases.delete(id);
    }
    if (!leases.has(asked.sessionId) && leases.size >= CAP)
      throw Object.assign(new Error("full"), { code: status.RESOURCE_EXHAUSTED });
    leases.set(asked.sessionId, now + TTL);
    return {
      session: {
        sessionId: asked.sessionId,
        tenant: asked.tenant,
        agentName: asked.agentName,
        worker: asked.worker,
        state: 2,
        acquireTime: stamp(now),
        expireTime: stamp(now + TTL),
        ttl: { seconds: BigInt(TTL / 1000) },
      },
      config,
      created: true,
    };
  },
  releaseSession(asked) {
    for (const leases of tenants.values())
      if (leases.delete(asked.sessionId)) return { outcome: asked.outcome };
    throw Object.assign(new Error("no such session"), { code: status.NOT_FOUND });
  },
};

const definition = {};
const handlers = {};
for (const method of pb.SessionService.methods) {
  if (!calls[method.localName]) continue;
  definition[method.localName] = {
    path: `/${pb.SessionService.typeName}/${method.name}`,
    requestStream: false,
    responseStream: false,
    requestDeserialize: (bytes) => fromBinary(method.input, bytes),
    requestSerialize: (message) => Buffer.from(toBinary(method.input, message)),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
    responseSerialize: (message) => Buffer.from(toBinary(method.output, message)),
  };
  handlers[method.localName] = (call, done) => {
    try {
      done(null, create(method.output, calls[method.localName](call.request)));
    } catch (error) {
      done(error);
    }
  };
}
const server = new Server();
server.addService(definition, handlers);
server.bindAsync(`unix:${process.argv[2]}`, ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
