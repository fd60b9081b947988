/** Starts the real binary for a test and ends it again. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { TenantdRpc } from "@tenantd/client";
import { AdminService, Health, HealthCheckResponse_ServingStatus as Serving, WatchService } from "@tenantd/client/proto";

const root = fileURLToPath(new URL("../../../", import.meta.url));

/** Where the test's server binary is. */
export const binary = process.env.TENANTD_BIN ?? join(root, "target/debug/tenantd");

/** A config of two tenants on top of the defaults. */
export const CONFIG = `
[lease]
pending = "15s"
grace = "1s"
ttl = "60s"

[defaults]
cap = 10

[defaults.providers.llm]
provider = "openai"
model = "gpt-4o-mini"
credential = "sk-default-0123456789"
params = { temperature = 0.4 }

[tenants.acme]
cap = 10
labels = { plan = "gold" }

[tenants.acme.providers.llm]
provider = "openai"
model = "gpt-4o"
credential = "sk-acme-0123456789"

[tenants.small]
cap = 2
`;

/** Reads a file of tests/contract. */
export async function contract(name) {
  return JSON.parse(await readFile(join(root, "tests/contract", name), "utf8"));
}

/** Polls until `probe` returns something true; fails after `timeoutMs`. */
export async function until(what, probe, timeoutMs = 5_000) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > deadline) assert.fail(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/**
 * Starts `tenantd serve` on a socket of its own and waits until it serves.
 * @param {import("node:test").TestContext} t - stops it when the test ends
 * @param {string[]} more - where it listens beside
 */
export async function startSidecar(t, config = CONFIG, listen = undefined, more = []) {
  assert.ok(existsSync(binary), `${binary} is missing: run cargo build, or set TENANTD_BIN`);
  // mkdtemp makes it 0700. The name is short because socket paths are.
  const directory = await mkdtemp(join(tmpdir(), "tn-"));
  const file = join(directory, "tenantd.toml");
  await writeFile(file, config, { mode: 0o600 });
  const path = join(directory, "s.sock");
  const address = listen ?? `unix:${path}`;
  let log = "";
  let child;
  let exited;
  const start = (...flags) => {
    const listens = [address, ...more].flatMap((at) => ["--listen", at]);
    child = spawn(binary, ["serve", "--config", file, ...listens, ...flags], {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, XDG_STATE_HOME: directory },
    });
    child.stderr.setEncoding("utf8").on("data", (text) => (log += text));
    exited = once(child, "exit");
  };
  start();
  const client = new TenantdRpc({ address });

  t.after(async () => {
    await releaseAll(client).catch(() => {});
    client.close();
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGTERM");
    const overdue = setTimeout(() => child.kill("SIGKILL"), 10_000);
    const [code, signal] = await exited;
    clearTimeout(overdue);
    await rm(directory, { recursive: true, force: true });
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, `tenantd's log:\n${log}`);
    assert.doesNotMatch(log, /sk-[a-z]+-0123456789/, "a credential in the log");
  });

  const serves = () =>
    until(
      "the sidecar serves",
      async () => {
        if (child.exitCode !== null) assert.fail(`tenantd ended with ${child.exitCode}:\n${log}`);
        const answer = await client.unary(Health.method.check, {}, { timeoutMs: 500 }).catch(() => undefined);
        return answer?.status === Serving.SERVING;
      },
      10_000,
    );
  await serves();
  return {
    address,
    path,
    client,
    log: () => log,
    /** Ends it without a word. */
    async kill() {
      child.kill("SIGKILL");
      await exited;
    },
    /** Has it hang, and go on. */
    signal: (name) => child.kill(name),
    /** Starts it anew. */
    async restart() {
      start();
      await serves();
    },
    /** Starts another one in its place; the one before ends by itself. */
    async takeOver() {
      const before = exited;
      start("--take-over");
      assert.deepEqual(await before, [0, null], log);
    },
    /** Changes the config file and has it read. */
    async configure(text) {
      await writeFile(file, text, { mode: 0o600 });
      await client.unary(AdminService.method.reloadConfig, {});
    },
    /** Live sessions of a tenant. */
    async live(tenant) {
      const { sessions } = await client.unary(WatchService.method.listSessions, {});
      return sessions.filter((session) => session.tenant === tenant).length;
    },
    /** What `watch` shows from now on, as a growing list of events. */
    async events() {
      const seen = [];
      const stream = client.watch({});
      await new Promise((resolve, reject) => {
        (async () => {
          for await (const { item } of stream) {
            if (item.case === "event") seen.push(item.value);
            if (item.case === "snapshotEnd") resolve();
          }
        })().catch(reject);
      });
      return seen;
    },
  };
}

/** Live sessions would hold the drain up to its deadline. */
async function releaseAll(client) {
  const { sessions } = await client.unary(WatchService.method.listSessions, {});
  await Promise.allSettled(
    // Not released: with identities they are another's.
    sessions.map(({ sessionId }) => client.unary(AdminService.method.revokeSession, { sessionId })),
  );
}
