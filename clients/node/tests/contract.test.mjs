/** The cases of the Python client's contract suite, for this client. */
import assert from "node:assert/strict";
import { test } from "node:test";

import * as tenantd from "@tenantd/client";
import { contract, startSidecar, until } from "./sidecar.mjs";

const CONFIG = `
[lease]
pending = "15s"
ttl = "60s"
grace = "1s"
[defaults]
cap = 3
labels = { plan = "basic" }
providers.llm = { provider = "openai", model = "gpt-4o", credential = "sk-1", params = { temperature = 0.5, max_tokens = 100 } }
providers.tts = { provider = "cartesia", credentials = { token = "t-1" } }
breaker = { min_samples = 2, failure_ratio = 0.5, cooldown = "300ms", probes = 1, probe_healthy_after = "30s" }
[agents.desk]
cap = 1
[tenants.acme]
cap = 2
labels = { plan = "gold" }
providers.llm = { provider = "openai", model = "own", credential = "sk-own" }
providers.tts = "none"
[tenants.keyless.providers.llm]
provider = "openai"
credential = "env:NOT_THERE"
`;

async function stage(t) {
  const sidecar = await startSidecar(t, CONFIG);
  const td = tenantd.connect({ address: sidecar.address, logger: { warn() {}, error() {} } });
  t.after(() => td.close());
  return { sidecar, td };
}

test("every case of binding a tenant", async (t) => {
  const { td } = await stage(t);
  const { cases } = await contract("tenants.json");
  for (const [i, one] of cases.entries()) {
    const ask = { sessionId: `t-${i}`, jobMetadata: one.job ?? "", roomMetadata: one.room ?? "", tenant: one.explicit ?? "" };
    if ("ok" in one) {
      const session = await td.acquire(ask);
      assert.equal(session.tenant, one.ok, JSON.stringify(one));
      await session.end("success");
    } else {
      await assert.rejects(td.acquire(ask), (error) => {
        assert.ok(error instanceof tenantd.errorClasses[one.reject], `${error} for ${JSON.stringify(one)}`);
        return error.disposition === "final";
      });
    }
  }
});

test("config is the tenant's over the defaults", async (t) => {
  const { td } = await stage(t);
  const own = await td.acquire({ tenant: "acme" });
  const other = await td.acquire({ tenant: "who" });
  assert.deepEqual(Object.keys(own.providers), ["llm"]);
  assert.deepEqual(own.providers.llm.options, { model: "own", apiKey: "sk-own" });
  assert.deepEqual([own.labels, own.config.tenantKnown], [{ plan: "gold" }, true]);
  assert.deepEqual(other.providers.llm.options, { model: "gpt-4o", apiKey: "sk-1", temperature: 0.5, maxTokens: 100 });
  assert.deepEqual(other.providers.llm.params, { temperature: 0.5, max_tokens: 100 });
  assert.deepEqual(other.providers.tts.credentials, { token: "t-1" });
  assert.deepEqual([other.labels, other.config.tenantKnown], [{ plan: "basic" }, false]);
  await assert.rejects(td.acquire({ tenant: "keyless" }), (error) => {
    assert.deepEqual([error.reason, error.tenant, error.disposition], ["CONFIG_UNAVAILABLE", "keyless", "retry_later"]);
    return error instanceof tenantd.ConfigUnavailableError;
  });
});

test("caps of tenant and agent, and siblings of a full tenant go on", async (t) => {
  const { sidecar, td } = await stage(t);
  const held = [await td.acquire({ tenant: "acme" }), await td.acquire({ tenant: "acme" })];
  await assert.rejects(td.acquire({ tenant: "acme" }), (error) => {
    assert.deepEqual([error.limit, error.current, error.tenant, error.disposition], [2, 2, "acme", "retry_elsewhere"]);
    return error instanceof tenantd.TenantAtCapError;
  });
  assert.equal(await sidecar.live("acme"), 2);
  await td.acquire({ tenant: "b", agent: "desk" });
  await assert.rejects(td.acquire({ tenant: "c", agent: "desk" }), tenantd.AgentAtCapError);
  await held[0].end("success");
  await td.acquire({ tenant: "acme" });
});

test("an acquire is idempotent, and an ended id stays ended", async (t) => {
  const { td } = await stage(t);
  const first = await td.reserve({ sessionId: "same", tenant: "acme" });
  const again = await td.acquire({ sessionId: "same", tenant: "acme" });
  assert.deepEqual([first.created, first.config.version], [true, again.config.version]);
  assert.equal((await td.reserve({ sessionId: "same", tenant: "acme" })).created, false);
  await assert.rejects(td.acquire({ sessionId: "same", tenant: "other" }), tenantd.SessionConflictError);
  await again.end("cancelled");
  for (const call of [
    () => td.acquire({ sessionId: "same", tenant: "acme" }),
    () => td.rpc.renew({ sessionId: "same" }),
    () => td.rpc.release({ sessionId: "same", outcome: tenantd.Outcome.SUCCESS }),
  ]) {
    await assert.rejects(call, (error) => error instanceof tenantd.SessionEndedError && error.outcome === "cancelled");
  }
  await assert.rejects(td.rpc.renew({ sessionId: "never" }), tenantd.SessionUnknownError);
  await assert.rejects(td.acquire({ sessionId: "a b", tenant: "acme" }), (error) => error.fields[0].field === "session_id");
});

test("the breaker opens, probes and recovers, leaves siblings alone, and says when to come back", async (t) => {
  const { sidecar, td } = await stage(t);
  const call = async (outcome) => (await td.acquire({ tenant: "bad" })).end(outcome);
  await call("failure");
  await call("failure");
  await assert.rejects(call("success"), (error) => {
    assert.ok(0 < error.retryAfterMs && error.retryAfterMs <= 300, `${error.retryAfterMs}`);
    return error instanceof tenantd.CircuitOpenError && error.disposition === "retry_later";
  });
  await td.acquire({ tenant: "good" });
  // Tried again at the time that the refusal named: the probe.
  const probe = await td.acquire({ tenant: "bad", retryForMs: 5_000 });
  await assert.rejects(td.acquire({ tenant: "bad" }), tenantd.CircuitOpenError);
  await probe.end("success");
  await until("closed", () => call("success").then(() => true, () => false));
  assert.equal(await sidecar.live("bad"), 0);
});

test("a reserved slot that nobody takes up frees itself or is given back", async (t) => {
  const { sidecar, td } = await stage(t);
  await td.reserve({ sessionId: "r", tenant: "acme" });
  assert.equal(await sidecar.live("acme"), 1);
  td.giveBack("r");
  await until("given back", async () => (await sidecar.live("acme")) === 0);
});
