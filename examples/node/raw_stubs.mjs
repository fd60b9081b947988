/**
 * The generated stubs alone, for those who want no client: `node raw_stubs.mjs`.
 *
 * You then owe what the client does: a deadline on each call, the release, a KeepAlive
 * stream (or renewals), and what the details of an error say.
 */
import { fromBinary, toBinary, create } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import { Outcome, SessionService } from "@tenantd/client/proto";

const address = process.env.TENANTD_ADDRESS ?? "unix:/run/tenantd/tenantd.sock";
const channel = new Client(address.replace("http://", ""), credentials.createInsecure());

/** Any unary method of a generated service. */
function call(method, request) {
  return new Promise((resolve, reject) =>
    channel.makeUnaryRequest(
      `/${method.parent.typeName}/${method.name}`,
      (message) => Buffer.from(toBinary(method.input, message)),
      (bytes) => fromBinary(method.output, bytes),
      create(method.input, request),
      { deadline: Date.now() + 2_000 },
      (error, response) => (error ? reject(error) : resolve(response)),
    ),
  );
}

const { acquireSession, releaseSession } = SessionService.method;
const { session, config } = await call(acquireSession, {
  jobMetadata: process.argv[2] ?? '{"tenant":"acme"}',
  activate: true,
});
console.log(`${session.sessionId} runs for ${session.tenant} on ${config.providers.llm?.model}`);
await call(releaseSession, { sessionId: session.sessionId, outcome: Outcome.SUCCESS });
channel.close();
