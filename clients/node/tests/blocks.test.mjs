import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { createRequire } from "node:module";
import { test } from "node:test";
import { inspect } from "node:util";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";

import * as tenantd from "@tenantd/client";
import { AdminService } from "@tenantd/client/proto";
import { CONFIG, startSidecar, until } from "./sidecar.mjs";

const { connect, currentAgentName, currentSessionId, currentTenantId } = tenantd;
const quiet = { warn() {}, error() {} };
const here = () => [currentTenantId(), currentSessionId(), currentAgentName()];
const NONE = [undefined, undefined, undefined];
const job = (id, metadata, more) => ({ id, metadata: JSON.stringify(metadata), ...more });

/** A sidecar, a client, and the outcome of each session that ended. */
async function stage(t, { config = CONFIG, ...options } = {}) {
  const sidecar = await startSidecar(t, config);
  const events = await sidecar.events();
  const td = connect({ address: sidecar.address, logger: quiet, ...options });
  t.after(() => td.close());
  const ended = (id) => until(`${id} ended`, () => events.find((e) => e.sessionId === id && e.detail.case === "sessionEnded"))
    .then((event) => tenantd.Outcome[event.detail.value.outcome].toLowerCase());
  return { sidecar, td, events, ended };
}

test("await using: the tenant is bound and kept, and the block's end frees the slot", async (t) => {
  const { sidecar, td, ended } = await stage(t);
  const block = async () => {
    const session = await td.acquire({ job: job("a", { tenant: "acme" }, { agentName: "desk" }) });
    assert.deepEqual(here(), ["acme", "a", "desk"]);
    await sleep(1);
    assert.deepEqual(here(), ["acme", "a", "desk"]);
    assert.equal(session.providers.llm.model, "gpt-4o");
    assert.deepEqual(session.providers.llm.options, { model: "gpt-4o", apiKey: "sk-acme-0123456789" });
    assert.deepEqual(session.labels, { plan: "gold" });
    assert.throws(() => session.providers.stt, /no provider "stt"; it has: llm/);
    assert.equal(await sidecar.live("acme"), 1);
    // What `await using` does, which Node 20 cannot parse.
    await session[Symbol.asyncDispose]();
    assert.deepEqual(here(), NONE);
  };
  assert.deepEqual(here(), NONE);
  await block();
  assert.equal(await ended("a"), "success");
  assert.equal(await sidecar.live("acme"), 0);
});

test("each of many concurrent sessions sees its own tenant, in timers and emitters, too", async (t) => {
  const { td } = await stage(t);
  const one = async (tenant, i) => {
    const sessionId = `${tenant}-${i}`;
    const inside = async () => {
      for (let turn = 0; turn < 5; turn++) {
        await sleep(1);
        assert.deepEqual(here(), [tenant, sessionId, undefined]);
        await new Promise((resolve) => setImmediate(() => resolve(assert.equal(currentTenantId(), tenant))));
      }
    };
    if (i % 2) return td.withSession({ sessionId, tenant }, inside);
    const session = await td.acquire({ sessionId, tenant });
    await inside();
    return session.end("success");
  };
  await Promise.all(["acme", "globex", "x"].flatMap((tenant) => [0, 1, 2, 3].map((i) => one(tenant, i))));
  assert.deepEqual(here(), NONE);
});

test("a nested session ends, and the outer one is bound again", async (t) => {
  const { td } = await stage(t);
  await td.withSession({ tenant: "acme" }, async () => {
    const inner = await td.acquire({ tenant: "globex" });
    assert.equal(currentTenantId(), "globex");
    await inner.end("success");
    assert.equal(currentTenantId(), "acme");
    await assert.rejects(td.acquire({ tenant: "a b" }), tenantd.TenantMalformedError);
    assert.equal(currentTenantId(), "acme");
  });
});

test("withSession books success, failure and cancelled", async (t) => {
  const { td, ended, events } = await stage(t);
  assert.equal(await td.withSession({ sessionId: "ok", tenant: "acme" }, () => 42), 42);
  class ProviderDown extends Error {}
  const raises = td.withSession({ sessionId: "bad", tenant: "acme" }, () => { throw new ProviderDown("sk-secret"); });
  await assert.rejects(raises, ProviderDown);
  const stop = new AbortController();
  const stopped = td.withSession({ sessionId: "stop", tenant: "acme", signal: stop.signal }, async ({ signal }) => {
    stop.abort();
    await sleep(5_000, undefined, { signal });
  });
  await assert.rejects(stopped, { name: "AbortError" });
  assert.deepEqual([await ended("ok"), await ended("bad"), await ended("stop")], ["success", "failure", "cancelled"]);
  const failed = events.find((e) => e.sessionId === "bad" && e.detail.case === "sessionEnded");
  assert.match(JSON.stringify(failed, (_, v) => (typeof v === "bigint" ? `${v}` : v)), /ProviderDown/);
  assert.doesNotMatch(JSON.stringify(events, (_, v) => (typeof v === "bigint" ? `${v}` : v)), /sk-secret/);
});

test("an acquire that is aborted leaks no slot", async (t) => {
  const { sidecar, td } = await stage(t);
  const runs = Array.from({ length: 20 }, async (_, i) => {
    const stop = new AbortController();
    const acquiring = td.acquire({ sessionId: `s-${i}`, tenant: "acme", signal: stop.signal });
    if (i % 2) await sleep(i / 10);
    stop.abort();
    return acquiring.then((session) => session.end("cancelled"), (error) => assert.equal(error.name, "AbortError"));
  });
  await Promise.all(runs);
  await until("no slot is held", async () => (await sidecar.live("acme")) === 0);
  await assert.rejects(td.acquire({ signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("a reported failure counts once and is not booked as success", async (t) => {
  const { td, ended } = await stage(t);
  const session = await td.acquire({ sessionId: "f", tenant: "acme" });
  assert.deepEqual([await session.fail({ slot: "llm", kind: "timeout" }), await session.fail()], [true, false]);
  await session.end("success");
  assert.equal(await ended("f"), "failure");
  await session.end("success");
});

test("fifty live sessions come back after a killed sidecar, and are counted again", async (t) => {
  const { sidecar, td } = await stage(t, { config: "[lease]\ngrace = \"1s\"\n[defaults]\ncap = 50\n" });
  const sessions = await Promise.all(Array.from({ length: 50 }, () => td.acquire({ tenant: "acme" })));
  await sidecar.kill();
  await sidecar.restart();
  await until("all are back", async () => (await sidecar.live("acme")) === 50, 10_000);
  await assert.rejects(td.acquire({ tenant: "acme" }), tenantd.TenantAtCapError);
  // Longer than the grace: they are held, not only remembered.
  await sleep(1_500);
  assert.equal(await sidecar.live("acme"), 50);
  assert.ok(sessions.every(({ revoked }) => !revoked));
  await Promise.all(sessions.map((session) => session.end("success")));
  assert.equal(await sidecar.live("acme"), 0);
});

test("a release that the sidecar did not answer is made up for", async (t) => {
  const { sidecar, td } = await stage(t, { timeoutMs: 200 });
  const session = await td.acquire({ tenant: "acme" });
  // Its answers are lost, its state is not: what was owed must be paid.
  const { release } = td.rpc;
  td.rpc.release = () => Promise.reject(new tenantd.SidecarUnavailableError("gone", "x", { code: 14 }));
  sidecar.signal("SIGSTOP");
  await session.end("success");
  td.rpc.release = release;
  sidecar.signal("SIGCONT");
  await until("the slot is free", async () => (await sidecar.live("acme")) === 0);
});

test("a process's own unheard releases refuse it no slot", async (t) => {
  const { sidecar, td, ended } = await stage(t);
  const rpc = Object.getPrototypeOf(td.rpc);
  const { release } = rpc;
  t.after(() => (rpc.release = release));
  let failures = 3;
  rpc.release = function (request) {
    // As a stream does that is cut.
    if (failures-- > 0) return Promise.reject(new tenantd.TenantdError("cut", "", { reason: "", code: 13 }));
    return release.call(this, request);
  };
  const other = await td.acquire({ tenant: "small" });
  const first = await td.acquire({ sessionId: "first", tenant: "small" });
  await first.end("success");
  assert.equal(await sidecar.live("small"), 2);
  const second = await td.acquire({ tenant: "small" });
  assert.equal(await ended("first"), "success");
  // A slot that another one holds is another one's.
  await assert.rejects(td.acquire({ tenant: "small" }), tenantd.TenantAtCapError);
  await Promise.all([other.end("success"), second.end("success")]);
});

test("a session that ends while the sidecar is dead is ended when that is back, and not asked for again", async (t) => {
  const { sidecar, td } = await stage(t);
  const session = await td.acquire({ tenant: "acme" });
  await sidecar.kill();
  await session.end("success");
  await sidecar.restart();
  const next = await td.acquire({ tenant: "acme" });
  // It came back with the sidecar, and its release is tried until it is heard.
  await until("only the next is live", async () => (await sidecar.live("acme")) === 1, 20_000);
  await next.end("success");
});

test("a revoked session is told once, by event, signal and iterator, and is no error at its end", async (t) => {
  const { sidecar, td } = await stage(t);
  const notices = [];
  const reading = (async () => { for await (const notice of td.notices()) notices.push(notice); })();
  const told = [];
  td.on("revoked", (notice) => told.push(notice.sessionId));
  await td.withSession({ sessionId: "r", tenant: "acme" }, async (session) => {
    session.on("revoked", ({ note }) => told.push(note));
    // The stream answers in order: once it has told this, the attach before it is done.
    td.once("configChanged", () => told.push("attached"));
    await sidecar.configure(CONFIG.replace("sk-acme", "sk-acme-2"));
    await until("attached", () => told.includes("attached"));
    await sidecar.client.unary(AdminService.method.revokeSession, { sessionId: "r", note: "fraud" });
    await until("aborted", () => session.signal.aborted);
    assert.equal(session.revoked.cause, "revoked");
  });
  assert.deepEqual(told, ["attached", "fraud", "r"]);
  await td.close();
  await reading;
  assert.deepEqual(notices.map(({ type, tenant }) => [type, tenant]), [["configChanged", "acme"], ["revoked", "acme"]]);
});

test("a suspended tenant's sessions are told and a sibling's are not", async (t) => {
  const { sidecar, td } = await stage(t);
  const [acme, other] = [await td.acquire({ tenant: "acme" }), await td.acquire({ tenant: "small" })];
  const told = [];
  acme.on("suspended", ({ tenant, note, sessionIds }) => told.push([tenant, note, sessionIds]));
  acme.on("resumed", ({ tenant }) => told.push([tenant]));
  other.on("suspended", () => assert.fail("not its tenant"));
  await sidecar.client.unary(AdminService.method.suspendTenant, { tenant: "acme", note: "key leaked" });
  await until("told", () => told.length > 0);
  await sidecar.client.unary(AdminService.method.resumeTenant, { tenant: "acme" });
  await until("told the end", () => told.length > 1);
  assert.deepEqual(told, [["acme", "key leaked", [acme.sessionId]], ["acme"]]);
  await Promise.all([acme.end("success"), other.end("success")]);
});

test("a rotated key reaches a live session by refresh", async (t) => {
  const { sidecar, td } = await stage(t);
  const [acme, other] = [await td.acquire({ tenant: "acme" }), await td.acquire({ tenant: "small" })];
  let changed = 0;
  acme.on("configChanged", () => changed++);
  other.on("configChanged", () => assert.fail("not its config"));
  await sleep(100);
  await sidecar.configure(CONFIG.replace("sk-acme-0123456789", "sk-acme-rotated-99"));
  await until("told", () => changed > 0);
  assert.equal(acme.providers.llm.apiKey, "sk-acme-0123456789");
  await acme.refresh();
  assert.equal(acme.providers.llm.apiKey, "sk-acme-rotated-99");
  await Promise.all([acme.end("success"), other.end("success")]);
});

test("calls go over one stream, with the errors of their own, and many at once get each its own", async (t) => {
  const { td } = await stage(t);
  const alone = [];
  const unary = td.rpc.unary.bind(td.rpc);
  td.rpc.unary = (method, ...rest) => (alone.push(method.name), unary(method, ...rest));
  const ids = Array.from({ length: 50 }, (_, n) => `many-${n}`);
  const sessions = await Promise.all(ids.map((sessionId) => td.acquire({ sessionId, tenant: `t-${sessionId}` })));
  assert.deepEqual(sessions.map((s) => [s.sessionId, s.tenant]), ids.map((id) => [id, `t-${id}`]));
  await assert.rejects(td.acquire({ sessionId: "many-0", tenant: "other" }), { reason: "SESSION_CONFLICT" });
  await Promise.all(sessions.map((session) => session.end("success")));
  await assert.rejects(td.rpc.release({ sessionId: "many-0", outcome: 1 }), { reason: "SESSION_ENDED" });
  assert.deepEqual(alone, []);
});

test("a config that is held is not sent again, and a rotated key is", async (t) => {
  const { sidecar, td } = await stage(t);
  const answers = [];
  const acquire = td.rpc.acquire.bind(td.rpc);
  td.rpc.acquire = async (...asked) => {
    const answer = await acquire(...asked);
    answers.push({ unchanged: answer.configUnchanged, sent: answer.config !== undefined });
    return answer;
  };
  const one = await td.acquire({ tenant: "acme" });
  one.providers.llm.params.mine = true;
  const two = await td.acquire({ job: { metadata: '{"tenant":" acme "}' } });
  assert.equal(two.providers.llm.apiKey, "sk-acme-0123456789");
  assert.equal(two.providers.llm.params.mine, undefined, "each session has its own");
  await sidecar.configure(CONFIG.replace("sk-acme-0123456789", "sk-acme-rotated-99"));
  const three = await td.acquire({ tenant: "acme" });
  assert.equal(three.providers.llm.apiKey, "sk-acme-rotated-99");
  assert.deepEqual(answers, [
    { unchanged: false, sent: true },
    { unchanged: true, sent: false },
    { unchanged: false, sent: true },
  ]);
  await Promise.all([one, two, three].map((session) => session.end("success")));
});

test("who blocks the loop is told with the tenant, and code outside every session is nobody's", async (t) => {
  const lines = [];
  const logger = { warn: (fields, text) => lines.push([fields, text]), error() {} };
  const { td, events } = await stage(t, { logger });
  const outsider = new EventEmitter();
  let wanted = false;
  outsider.on("block", () => (wanted = true));
  const watching = setInterval(() => {
    if (!wanted) return;
    wanted = false;
    block(200);
    setTimeout(() => outsider.emit("go"), 60);
  }, 5);
  t.after(() => clearInterval(watching));
  const block = (ms) => { for (const end = performance.now() + ms; performance.now() < end; ); };
  const busy = async (sessionId, tenant, ms) => td.withSession({ sessionId, tenant }, async () => {
    await sleep(60);
    if (ms) block(ms);
    await sleep(60);
  });
  await Promise.all([busy("slow", "acme", 300), busy("idle", "small", 0)]);
  const said = await until("the event", () => events.find((e) => e.detail.case === "workerSlow"));
  assert.deepEqual([said.tenant, said.sessionId], ["acme", "slow"]);
  const blocks = lines.filter(([, text]) => /blocked for \d+ ms/.test(text));
  assert.equal(blocks.length, 1, String(blocks.map(([, text]) => text)));
  assert.deepEqual(blocks[0][0], { tenant: "acme", session_id: "slow" });
  // The first synchronous part of a block is the session's, too.
  await td.withSession({ sessionId: "first", tenant: "acme" }, async () => { block(200); await sleep(60); });
  assert.match(lines.at(-1)[1], /by session first of tenant acme/);
  await td.withSession({ tenant: "small" }, async () => {
    const outside = new Promise((resolve) => outsider.once("go", resolve));
    outsider.emit("block");
    await outside;
  });
  assert.match(lines.at(-1)[1], /by code outside every session/);
});

test("a blocked loop loses no session", async (t) => {
  const { sidecar, td } = await stage(t);
  const session = await td.acquire({ tenant: "acme" });
  await sleep(100);
  for (const end = performance.now() + 3_000; performance.now() < end; );
  await sleep(200);
  assert.equal(await sidecar.live("acme"), 1);
  assert.equal(session.revoked, undefined);
  await session.end("success");
});

test("without a sidecar it is refused unless asked to fail open, which is logged", async () => {
  const address = "unix:/tmp/tn-nobody/s.sock";
  const closed = connect({ address, logger: quiet });
  await assert.rejects(closed.acquire({ tenant: "acme" }), tenantd.SidecarUnavailableError);
  const errors = [];
  const open = connect({ address, failOpen: true, logger: { warn() {}, error: (_, text) => errors.push(text) } });
  await open.withSession({ tenant: "acme" }, async (session) => {
    assert.equal(session.failedOpen, true);
    assert.equal(currentTenantId(), "acme");
    assert.throws(() => session.providers.llm, /no provider "llm"/);
    assert.equal(await session.fail(), false);
  });
  assert.match(errors[0], /WITHOUT a slot/);
  await Promise.all([closed.close(), open.close()]);
});

test("fail open never overrules a refusal; a refusal that says when is tried again then", async (t) => {
  const { td } = await stage(t, { failOpen: true });
  const held = await Promise.all([td.acquire({ tenant: "small" }), td.acquire({ tenant: "small" })]);
  await assert.rejects(td.acquire({ tenant: "small" }), (error) => {
    assert.deepEqual([error.reason, error.tenant, error.limit, error.disposition], ["TENANT_AT_CAP", "small", 2, "retry_elsewhere"]);
    return true;
  });
  await Promise.all(held.map((session) => session.end("success")));
});

for (const [what, code] of [["end", 0], ["throw", 1]]) {
  test(`a process that just ${what}s is not kept alive, and gives its slot back within the grace`, async (t) => {
    const { sidecar } = await stage(t);
    const child = spawn(process.execPath, [fileURLToPath(new URL("process.mjs", import.meta.url)), sidecar.address, "acme", what], { stdio: ["ignore", "pipe", "ignore"] });
    const [exit] = await once(child, "exit");
    assert.equal(exit, code);
    await until("the slot is free", async () => (await sidecar.live("acme")) === 0);
  });
}

for (const what of ["idle", "thread"]) {
  test(`kill -9 of a process (${what}) frees its slot within the grace`, async (t) => {
    const { sidecar, ended } = await stage(t);
    const child = spawn(process.execPath, [fileURLToPath(new URL("process.mjs", import.meta.url)), sidecar.address, "acme", what], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = await once(child.stdout.setEncoding("utf8"), "data");
    assert.equal(await sidecar.live("acme"), 1);
    await sleep(200);
    child.kill("SIGKILL");
    assert.equal(await ended(line.trim()), "lost");
    assert.equal(await sidecar.live("acme"), 0);
  });
}

test("a cluster's fork that dies frees its slot, though its primary lives", async (t) => {
  const { sidecar, ended } = await stage(t);
  const child = spawn(process.execPath, [fileURLToPath(new URL("process.mjs", import.meta.url)), sidecar.address, "acme", "cluster"], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const [line] = await once(child.stdout.setEncoding("utf8"), "data");
  assert.equal(await ended(line.trim()), "lost");
  assert.equal(await sidecar.live("acme"), 0);
});

test("the example of the raw stubs runs", async (t) => {
  const { sidecar, events } = await stage(t);
  const file = fileURLToPath(new URL("../../../examples/node/raw_stubs.mjs", import.meta.url));
  const child = spawn(process.execPath, [file], { env: { ...process.env, TENANTD_ADDRESS: sidecar.address }, stdio: ["ignore", "pipe", "inherit"] });
  const [text] = await once(child.stdout.setEncoding("utf8"), "data");
  assert.match(text, /runs for acme on gpt-4o/);
  await until("it ended", () => events.some((e) => e.detail.case === "sessionEnded"));
});

test("a client over TCP does the same", async (t) => {
  const port = 20_000 + (process.pid % 20_000);
  const sidecar = await startSidecar(t, CONFIG, `http://127.0.0.1:${port}`);
  const td = connect({ address: `127.0.0.1:${port}`, logger: quiet });
  await td.withSession({ tenant: "acme" }, async () => assert.equal(await sidecar.live("acme"), 1));
  await td.close();
});

test("require and import give the same classes and one context", async (t) => {
  const required = createRequire(import.meta.url)("@tenantd/client");
  assert.equal(required.TenantAtCapError, tenantd.TenantAtCapError);
  const context = await import("@tenantd/client/context");
  tenantd.runBound({ tenant: "acme", sessionId: "s", agentName: "" }, () => {
    assert.equal(required.currentTenantId(), "acme");
    assert.equal(context.currentTenantId(), "acme");
  });
});

test("temperature and keys arrive as options of a provider's class, in camelCase", async (t) => {
  const { td } = await stage(t);
  await td.withSession({ tenant: "small" }, ({ providers }) =>
    assert.deepEqual(providers.llm.options, { model: "gpt-4o-mini", apiKey: "sk-default-0123456789", temperature: 0.4 }));
});

test("an error says what to do, and its stack names the caller", async (t) => {
  const { td } = await stage(t);
  async function bookTheCall() {
    await td.acquire({ tenant: "a b" });
  }
  await assert.rejects(bookTheCall(), ({ message, detail, stack }) => {
    assert.match(message, /^TENANT_MALFORMED: .*\n  Dispatch with metadata/s);
    assert.ok(!detail.includes("Dispatch"));
    return assert.match(stack, /bookTheCall/) ?? true;
  });
});

test("a session, its providers and errors print no key", async (t) => {
  const { td } = await stage(t);
  const session = await td.acquire({ tenant: "acme" });
  const printed = [inspect(session, { depth: 9, showHidden: true }), JSON.stringify(session.config), inspect(session.config, { depth: 9 }), inspect(session.providers.llm)].join();
  assert.doesNotMatch(printed, /sk-acme/);
  assert.match(printed, /redacted/);
  await session.end("success");
});
