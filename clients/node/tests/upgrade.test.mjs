// A new sidecar in the place of the old one, under load: nobody is refused.

import assert from "node:assert/strict";
import test from "node:test";

import * as tenantd from "@tenantd/client";

import { startSidecar, until } from "./sidecar.mjs";

test("upgrades under load refuse nobody and lose no session", async (t) => {
  const sidecar = await startSidecar(t, '[lease]\ngrace = "30s"\n[tenants.small]\ncap = 1\n');
  const td = tenantd.connect({ address: sidecar.address });
  t.after(() => td.close());
  const long = await td.acquire({ sessionId: "long", tenant: "small" });
  let [done, stop] = [0, false];
  const comeAndGo = async () => {
    while (!stop) {
      await td.withSession({ tenant: "acme" }, async () => {});
      done += 1;
    }
  };
  const all = Promise.all(Array.from({ length: 6 }, comeAndGo));
  // What any of them was refused with is told here, not as unhandled.
  const failed = all.then(() => undefined, (error) => error);
  for (let upgrades = 0; upgrades < 4; upgrades += 1) {
    const before = done;
    await until("sessions go on", async () => done > before + 10 || (await Promise.race([failed, false])), 30_000);
    await sidecar.takeOver();
  }
  stop = true;
  await all;
  assert.equal(long.revoked, undefined);
  // Its slot was kept: the tenant's only one.
  assert.equal(await sidecar.live("small"), 1);
  await long.end("success");
  await until("all ended", async () => (await sidecar.live("acme")) + (await sidecar.live("small")) === 0, 20_000);
});
