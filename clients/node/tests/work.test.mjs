import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";

import { SidecarUnavailableError, toTenantdError } from "@tenantd/client";
import { AcquireSessionRequestSchema, ReleaseSessionRequestSchema } from "../dist/gen/tenantd/v1/session_service_pb.js";
import { TenantdRpc } from "../dist/rpc.js";
import { Work } from "../dist/work.js";
import { CONFIG, startSidecar } from "./sidecar.mjs";

/** A stream that keeps what is written to it. */
function opened() {
  const asked = [];
  const call = Object.assign(new EventEmitter(), { write: ({ calls }) => asked.push(calls), end() {} });
  return { asked, call, work: new Work({ address: "unix:/x", duplex: () => call }, () => "") };
}

const acquiring = (fields) => create(AcquireSessionRequestSchema, fields);

test("an answer that cannot be read fails its call and not the process", async () => {
  const { asked, call, work } = opened();
  const answer = work.ask("renewSession", {}, 20_000);
  await new Promise(setImmediate);
  const [[{ id }]] = asked;
  call.emit("data", { answers: [{ id, answer: { case: "error", value: new Uint8Array([0x12, 1, 0xff]) } }] });
  const error = toTenantdError(await answer.catch((failed) => failed), "unix:/x");
  assert.ok(error instanceof SidecarUnavailableError);
});

test("calls that are asked in one turn of the loop go in one message, and each gets its own answer", async () => {
  const { asked, call, work } = opened();
  const answers = ["a", "b", "c"].map(async (sessionId) => {
    await Promise.resolve(); // As callers do that were woken together.
    return work.ask("acquireSession", acquiring({ sessionId }), 20_000);
  });
  await new Promise(setImmediate);
  assert.deepEqual(asked.map((calls) => calls.map((of) => of.call.value.sessionId)), [["a", "b", "c"]]);
  const said = asked[0].map(({ id, call: { value } }) => ({ id, answer: { case: "acquireSession", value: value.sessionId } }));
  call.emit("data", { answers: said.reverse() });
  assert.deepEqual(await Promise.all(answers), ["a", "b", "c"]);
});

test("no message has more calls than the sidecar takes, nor more metadata", async () => {
  const { asked, call, work } = opened();
  const ends = [];
  for (let n = 0; n < 101; n++) ends.push(work.ask("releaseSession", create(ReleaseSessionRequestSchema), 20_000));
  const jobMetadata = "x".repeat(40_000);
  for (const sessionId of ["a", "b"]) ends.push(work.ask("acquireSession", acquiring({ sessionId, jobMetadata }), 20_000));
  await new Promise(setImmediate);
  assert.deepEqual(asked.map((calls) => calls.length), [100, 2, 1]);
  call.emit("status", { code: 0 });
  await Promise.all(ends);
});

test("a hundred sessions with long metadata at once are granted over the stream", async (t) => {
  const { address } = await startSidecar(t, CONFIG.replace("[tenants.acme]\ncap = 10", "[tenants.acme]\ncap = 100"));
  const rpc = new TenantdRpc({ address, work: true });
  t.after(() => rpc.close());
  rpc.unary = () => assert.fail("asked by a call of its own");
  const jobMetadata = JSON.stringify({ tenant: "acme", notes: "\u00e9".repeat(20_000) });
  const ids = Array.from({ length: 100 }, (_, n) => `long-${n}`);
  const granted = await Promise.all(ids.map((sessionId) => rpc.acquire({ sessionId, jobMetadata })));
  assert.deepEqual(granted.map(({ session }) => session.sessionId), ids);
});
