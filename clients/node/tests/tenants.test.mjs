import assert from "node:assert/strict";
import { test } from "node:test";

import { Outcome, TenantdError } from "@tenantd/client";
import { WatchService } from "@tenantd/client/proto";
import { contract, startSidecar } from "./sidecar.mjs";

const { cases } = await contract("tenants.json");

test("every case of the tenant contract holds over the wire", async (t) => {
  const { client } = await startSidecar(t);
  for (const [index, { job = "", room = "", explicit = "", ok, reject }] of cases.entries()) {
    const name = `case ${index}: ${JSON.stringify({ job, room, explicit }).slice(0, 120)} is ${(ok ?? reject).slice(0, 40)}`;
    await t.test(name, async () => {
      const sessionId = `case-${index}`;
      const acquired = client.acquire({ sessionId, jobMetadata: job, roomMetadata: room, tenant: explicit });
      if (reject) {
        await assert.rejects(acquired, (error) => error instanceof TenantdError && error.reason === reject);
      } else {
        assert.equal((await acquired).session.tenant, ok);
        await client.release({ sessionId, outcome: Outcome.SUCCESS });
      }
    });
  }
  await t.test("the refused ids left no tenant behind", async () => {
    const { tenants } = await client.unary(WatchService.method.listTenants, {});
    const allowed = new Set([...cases.map(({ ok }) => ok), "small"]);
    assert.deepEqual(tenants.map(({ tenant }) => tenant).filter((tenant) => !allowed.has(tenant)), []);
    assert.deepEqual(tenants.map(({ liveSessions }) => liveSessions), tenants.map(() => 0));
  });
});

test("a padded id binds the same tenant and meets the same cap", async (t) => {
  const { client } = await startSidecar(t);
  const tenants = ["small", " small ", "\tsmall\n"];
  const results = await Promise.allSettled(tenants.map((tenant) => client.acquire({ tenant, activate: true })));
  const granted = results.filter(({ status }) => status === "fulfilled");
  assert.deepEqual(granted.map(({ value }) => value.session.tenant), ["small", "small"]);
  const refused = results.find(({ status }) => status === "rejected").reason;
  assert.equal(refused.reason, "TENANT_AT_CAP");
  assert.equal(refused.tenant, "small");
  assert.equal(refused.limit, 2);
  assert.equal(refused.current, 2);
  assert.equal(refused.disposition, "retry_elsewhere");
});
