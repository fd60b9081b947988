import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { Client, credentials } from "@grpc/grpc-js";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";

import { Outcome, SessionEndedError, SessionState, SessionUnknownError, TenantAtCapError } from "@tenantd/client";
import { SessionService, WatchService } from "@tenantd/client/proto";
import { startSidecar, until } from "./sidecar.mjs";

const burst = fileURLToPath(new URL("burst.mjs", import.meta.url));
const agent = fileURLToPath(new URL("../../../examples/node/agent.mjs", import.meta.url));

/** Runs a program to its end; returns its exit code and output. */
async function run(file, args, env) {
  const child = spawn(process.execPath, [file, ...args], { env: { ...process.env, ...env } });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text));
  const [code] = await once(child, "close");
  return { code, stdout, stderr };
}

test("an acquire returns the tenant's own config", async (t) => {
  const { client } = await startSidecar(t);
  const acme = await client.acquire({ sessionId: "a", tenant: "acme", activate: true });
  assert.equal(acme.session.state, SessionState.ACTIVE);
  assert.equal(acme.config.providers.llm.model, "gpt-4o");
  assert.equal(acme.config.providers.llm.credentials.api_key.value, "sk-acme-0123456789");
  assert.deepEqual({ ...acme.config.labels }, { plan: "gold" });
  const other = await client.acquire({ sessionId: "b", jobMetadata: '{"tenant":"nobody"}' });
  assert.equal(other.session.state, SessionState.PENDING);
  assert.equal(other.config.tenantKnown, false);
  assert.equal(other.config.providers.llm.credentials.api_key.value, "sk-default-0123456789");
  assert.equal(other.config.providers.llm.params.temperature, 0.4);
  assert.deepEqual(await client.getConfig("b"), other.config);
  const again = await client.acquire({ sessionId: "a", tenant: "acme" });
  assert.equal(again.created, false);
});

test("30 acquires at once at cap 10 give exactly 10", async (t) => {
  const { client } = await startSidecar(t);
  const results = await Promise.allSettled(
    Array.from({ length: 30 }, (_, i) => client.acquire({ sessionId: `s-${i}`, tenant: "acme", activate: true })),
  );
  const refused = results.filter(({ status }) => status === "rejected").map(({ reason }) => reason);
  assert.equal(refused.length, 20);
  for (const error of refused) {
    assert.ok(error instanceof TenantAtCapError, String(error));
    assert.equal(error.limit, 10);
  }
  const { tenant } = await client.unary(WatchService.method.getTenant, { tenant: "acme" });
  assert.equal(tenant.liveSessions, 10);
});

test("three processes that acquire at once share one cap", async (t) => {
  const { address } = await startSidecar(t);
  const START_AT = String(Date.now() + 1_500);
  const results = await Promise.all(
    ["x", "y", "z"].map((PREFIX) => run(burst, [], { TENANTD_ADDRESS: address, TENANT: "acme", COUNT: "10", START_AT, PREFIX })),
  );
  const lines = results.map(({ code, stdout, stderr }) => {
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  });
  assert.equal(lines.reduce((sum, { granted }) => sum + granted, 0), 10);
  assert.equal(lines.reduce((sum, { reasons }) => sum + (reasons.TENANT_AT_CAP ?? 0), 0), 20);
});

test("a bare grpc-js client with default options works on unix:/path", async (t) => {
  const { path } = await startSidecar(t);
  const client = new Client(`unix:${path}`, credentials.createInsecure());
  t.after(() => client.close());
  const { input, output } = SessionService.method.acquireSession;
  const response = await new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      "/tenantd.v1.SessionService/AcquireSession",
      (message) => Buffer.from(toBinary(input, message)),
      (bytes) => fromBinary(output, bytes),
      create(input, { sessionId: "bare", tenant: "acme" }),
      (error, value) => (error ? reject(error) : resolve(value)),
    );
  });
  assert.equal(response.session.sessionId, "bare");
});

test("a second release says SESSION_ENDED with the first outcome", async (t) => {
  const { client } = await startSidecar(t);
  await client.acquire({ sessionId: "s", tenant: "acme" });
  assert.equal(await client.release({ sessionId: "s", outcome: Outcome.CANCELLED }), Outcome.CANCELLED);
  for (const call of [
    () => client.release({ sessionId: "s", outcome: Outcome.SUCCESS }),
    () => client.renew({ sessionId: "s" }),
  ]) {
    await assert.rejects(call, (error) => error instanceof SessionEndedError && error.outcome === "cancelled");
  }
});

test("an unknown session is SESSION_UNKNOWN for every call", async (t) => {
  const { client } = await startSidecar(t);
  for (const call of [
    () => client.renew({ sessionId: "ghost" }),
    () => client.release({ sessionId: "ghost", outcome: Outcome.SUCCESS }),
    () => client.reportFailure({ sessionId: "ghost" }),
    () => client.getConfig("ghost"),
  ]) {
    await assert.rejects(call, SessionUnknownError);
  }
});

test("a session that was reported as failed is booked as failure", async (t) => {
  const { client } = await startSidecar(t);
  await client.acquire({ sessionId: "s", tenant: "acme", activate: true });
  const failure = { slot: "llm", kind: "timeout", message: "no answer" };
  assert.equal((await client.reportFailure({ sessionId: "s", failure })).counted, true);
  assert.equal((await client.reportFailure({ sessionId: "s", failure })).counted, false);
  assert.equal(await client.release({ sessionId: "s", outcome: Outcome.SUCCESS }), Outcome.FAILURE);
});

test("kill -9 of an agent process frees its slots within the grace", async (t) => {
  const { address, client } = await startSidecar(t);
  const child = spawn(
    process.execPath,
    [agent, "--calls", "2", "--concurrent", "--hold", "60", "--tenant-metadata", '{"tenant":"small"}'],
    { env: { ...process.env, TENANTD_ADDRESS: address }, stdio: ["ignore", "pipe", "inherit"] },
  );
  t.after(() => child.kill("SIGKILL"));
  const live = async () => (await client.unary(WatchService.method.getTenant, { tenant: "small" })).tenant.liveSessions;
  const attached = async () => (await client.unary(WatchService.method.getSnapshot, {})).workers;
  await until("both calls run", async () => (await live().catch(() => 0)) === 2 && (await attached()) === 1);
  await assert.rejects(client.acquire({ tenant: "small" }), TenantAtCapError);
  child.kill("SIGKILL");
  // The grace is 1 s; the rest is for a busy machine.
  await until("the slots are free", async () => (await live()) === 0, 3_000);
  await client.acquire({ tenant: "small", activate: true });
});

test("the example agent reports calls, refusals and redacted keys", async (t) => {
  const { address } = await startSidecar(t);
  const { code, stdout, stderr } = await run(
    agent,
    ["--calls", "3", "--concurrent", "--hold", "0.3", "--session-prefix", "p", "--room-metadata", '{"tenant":"small"}'],
    { TENANTD_ADDRESS: address },
  );
  assert.equal(code, 0, stderr);
  const lines = stdout.trim().split("\n");
  assert.equal(lines.filter((line) => line.includes("tenant=small accepted llm=openai/gpt-4o-mini key=sk-d…(21 chars)")).length, 2, stdout);
  assert.equal(lines.filter((line) => line.includes("tenant=small refused TENANT_AT_CAP limit=2 current=2 retry_elsewhere")).length, 1, stdout);
  assert.equal(lines.filter((line) => line.endsWith("tenant=small ended success")).length, 2, stdout);
});

test("the example agent without a sidecar exits 1 and names the address", async () => {
  const { code, stderr } = await run(agent, [], { TENANTD_ADDRESS: "unix:/nonexistent/t.sock" });
  assert.equal(code, 1);
  assert.match(stderr, /unix:\/nonexistent\/t\.sock/);
});
