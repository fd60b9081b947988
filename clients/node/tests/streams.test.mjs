import assert from "node:assert/strict";
import { test } from "node:test";

import { EndCause, EventKind, Outcome } from "@tenantd/client";
import { AdminService } from "@tenantd/client/proto";
import { startSidecar } from "./sidecar.mjs";

/** Reads the stream up to the first message that `wanted` accepts. */
async function next(iterator, wanted) {
  for (;;) {
    const { value, done } = await iterator.next();
    assert.ok(!done, "the stream ended early");
    if (wanted(value)) return value;
  }
}

/** Reads the next event and fails on a gap. */
async function nextEvent(iterator) {
  const { item } = await next(iterator, ({ item }) => item.case === "event" || item.case === "gap");
  assert.equal(item.case, "event");
  return item.value;
}

const inTime = { timeout: 15_000 };

test("a watcher sees acquired and ended, tagged with the tenant, and resumes from a cursor", inTime, async (t) => {
  const { client } = await startSidecar(t);
  await client.acquire({ sessionId: "before", tenant: "small", activate: true });
  const kinds = [EventKind.SESSION_ACQUIRED, EventKind.SESSION_ENDED];
  const stream = client.watch({ kinds })[Symbol.asyncIterator]();
  const snapshot = await next(stream, ({ item }) => item.case === "session");
  assert.equal(snapshot.item.value.sessionId, "before");
  const { item: end } = await next(stream, ({ item }) => item.case === "snapshotEnd");

  await client.acquire({ sessionId: "s", tenant: "acme", agentName: "desk", activate: true });
  await client.release({ sessionId: "s", outcome: Outcome.SUCCESS });
  const acquired = await nextEvent(stream);
  const ended = await nextEvent(stream);
  await stream.return();
  assert.equal(acquired.kind, EventKind.SESSION_ACQUIRED);
  assert.equal(ended.kind, EventKind.SESSION_ENDED);
  for (const event of [acquired, ended]) {
    assert.deepEqual([event.tenant, event.sessionId, event.agentName], ["acme", "s", "desk"]);
  }
  assert.equal(ended.detail.value.outcome, Outcome.SUCCESS);
  assert.equal(ended.detail.value.cause, EndCause.RELEASED);

  const cursor = { epoch: end.value.cursor.epoch, sequence: acquired.sequence };
  const resumed = client.watch({ kinds, cursor })[Symbol.asyncIterator]();
  const { value: first } = await resumed.next();
  assert.equal(first.item.case, "event", "no snapshot on a resume");
  assert.deepEqual(first.item.value, ended);
  await resumed.return();
});

test("a filter on the tenant shows no other tenant", inTime, async (t) => {
  const { client } = await startSidecar(t);
  const stream = client.watch({ tenants: ["acme"] })[Symbol.asyncIterator]();
  await next(stream, ({ item }) => item.case === "snapshotEnd");
  await client.acquire({ sessionId: "other", tenant: "small" });
  await client.acquire({ sessionId: "mine", tenant: "acme" });
  const event = await nextEvent(stream);
  assert.equal(event.tenant, "acme");
  await stream.return();
});

test("an event of the agent's own is tagged from its session", inTime, async (t) => {
  const { client } = await startSidecar(t);
  await client.acquire({ sessionId: "s", tenant: "acme", activate: true });
  const stream = client.watch({ kinds: [EventKind.AGENT_EVENT] })[Symbol.asyncIterator]();
  await next(stream, ({ item }) => item.case === "snapshotEnd");
  const answer = await client.publishEvents([
    { sessionId: "s", event: { name: "turn_started", attributes: { turn: 1 } } },
    { sessionId: "ghost", event: { name: "turn_started" } },
  ]);
  assert.equal(answer.accepted, 1);
  assert.deepEqual(answer.refused.map(({ index, reason }) => [index, reason]), [[1, "SESSION_UNKNOWN"]]);
  const event = await nextEvent(stream);
  assert.equal(event.tenant, "acme");
  assert.equal(event.detail.value.name, "turn_started");
  assert.deepEqual(event.detail.value.attributes, { turn: 1 });
  await stream.return();
});

test("a revoked session is told to its process over the keep-alive stream", inTime, async (t) => {
  const { client } = await startSidecar(t);
  const keepAlive = client.keepAlive("worker-1");
  const notices = keepAlive[Symbol.asyncIterator]();
  await next(notices, ({ message }) => message.case === "attached");
  await client.acquire({ sessionId: "s", tenant: "acme", worker: "worker-1" });
  keepAlive.attach("s", "ghost");
  const { message } = await next(notices, ({ message }) => message.case === "attached");
  assert.deepEqual(message.value.sessions.map(({ sessionId }) => sessionId), ["s"]);
  assert.deepEqual(message.value.refused.map(({ sessionId, reason }) => [sessionId, reason]), [["ghost", "SESSION_UNKNOWN"]]);

  await client.unary(AdminService.method.revokeSession, { sessionId: "s", note: "test" });
  const { message: notice } = await next(notices, ({ message }) => message.case === "revoked");
  const { sessionId, tenant, cause, note } = notice.value;
  assert.deepEqual({ sessionId, tenant, cause, note }, { sessionId: "s", tenant: "acme", cause: EndCause.REVOKED, note: "test" });
  await notices.return();
});
