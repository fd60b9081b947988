import assert from "node:assert/strict";
import { test } from "node:test";

import { defaultAddress } from "@tenantd/client";
import { contract } from "./sidecar.mjs";

const { cases } = await contract("address.json");

for (const { env, uid, ok, error } of cases) {
  test(`the address for ${JSON.stringify(env)} is ${ok ?? "refused"}`, () => {
    if (error) assert.throws(() => defaultAddress({ env, uid }), RangeError);
    else assert.equal(defaultAddress({ env, uid }), ok);
  });
}
