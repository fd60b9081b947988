/** How a process shows who it is: tokens, certificates, and the lease token of a session. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import {
  connect,
  NotPermittedError,
  SessionConflictError,
  SessionUnknownError,
  SidecarUnavailableError,
  TenantdRpc,
} from "@tenantd/client";
import { WatchService } from "@tenantd/client/proto";

import { binary, contract, startSidecar, until } from "./sidecar.mjs";

const tls = fileURLToPath(new URL("../../../tests/contract/tls/", import.meta.url));
const TOKEN = `tnd_${"0123456789abcdef".repeat(4)}`;
const SHARED = "tnd_shared-0123456789abcdef0123456789abcdef";
const LEASE_KEY = "TENANTD_LEASE_KEY";

/** As an operator makes it. */
const hashed = (token) => execFileSync(binary, ["token", "hash"], { input: token, encoding: "utf8" }).trim();

const config = (token = TOKEN) => `
[lease]
grace = "1s"
[listen.tls]
cert_file = "${tls}server.pem"
key_file = "${tls}server.key"
client_ca_file = "${tls}ca.pem"
client_cert = "optional"
[[identities]]
name = "by-token"
roles = ["agent"]
tenants = ["acme"]
tokens = ["${hashed(token)}"]
[[identities]]
name = "shared"
roles = ["agent"]
tenants = ["*"]
tokens = ["${hashed(SHARED)}"]
shared = true
[[identities]]
name = "by-cert"
roles = ["agent"]
tenants = ["acme"]
uris = ["spiffe://example.org/acme/agent"]
`;

/** A sidecar with identities, on its socket and on TLS. */
async function guarded(t) {
  const free = createServer().listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address();
  await new Promise((resolve) => free.close(resolve));
  const sidecar = await startSidecar(t, config(), undefined, [`127.0.0.1:${port}`]);
  return { ...sidecar, tls: `https://localhost:${port}` };
}

async function folder(t) {
  const path = await mkdtemp(join(tmpdir(), "tn-"));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

test("settings must fit together", () => {
  const wrong = [
    [{ token: "x", tokenFile: "/t" }, /give one/],
    [{ certFile: "/c" }, /go together/],
    [{ address: "http://10.0.0.7:1", token: "x" }, /not in clear/],
    [{ address: "sidecar:1", tokenFile: "/t" }, /not in clear/],
  ];
  for (const [options, says] of wrong) assert.throws(() => new TenantdRpc(options), says);
  for (const address of ["127.0.0.1:1", "localhost:1", "[::1]:1", "https://h:1", "unix:/s"]) {
    new TenantdRpc({ address, token: "x" }).close();
  }
  process.env.TENANTD_TOKEN = "x";
  process.env.TENANTD_TOKEN_FILE = "/t";
  try {
    assert.throws(() => connect({ address: "unix:/s" }), /set one/);
  } finally {
    delete process.env.TENANTD_TOKEN;
    delete process.env.TENANTD_TOKEN_FILE;
  }
});

test("the lease token is the same in every language", async (t) => {
  const { leaseToken } = await import("../dist/lease.js");
  const before = process.env[LEASE_KEY];
  t.after(() => (before === undefined ? delete process.env[LEASE_KEY] : (process.env[LEASE_KEY] = before)));
  for (const { key, session_id, token } of (await contract("lease_token.json")).cases) {
    process.env[LEASE_KEY] = key;
    assert.equal(leaseToken(session_id), token);
  }
});

test("a token is shown with every kind of call, and read again when its file changes", async (t) => {
  const sidecar = await guarded(t);
  const directory = await folder(t);
  const file = join(directory, "token");
  await writeFile(file, `${TOKEN}\n`);
  const td = connect({ address: sidecar.address, tokenFile: file });
  t.after(() => td.close());
  await td.withSession({ tenant: "acme" }, async (session) => {
    await session.publish("turn_started");
    await session.refresh();
    await session.fail({ slot: "llm" });
  });
  await assert.rejects(td.acquire({ tenant: "globex" }), NotPermittedError);
  await assert.rejects(td.rpc.unary(WatchService.method.listSessions, {}), /needs the role viewer/);
  await assert.rejects(async () => {
    for await (const _ of td.rpc.watch()) assert.fail("watched");
  }, NotPermittedError);
  const stream = td.rpc.keepAlive("w");
  for await (const { message } of stream) {
    assert.equal(message.case, "attached");
    break;
  }
  await td.rpc.acquire({ sessionId: "s", tenant: "acme", activate: true });
  const rotated = `tnd_${"fedcba9876543210".repeat(4)}`;
  await sidecar.configure(config(rotated));
  await assert.rejects(td.rpc.renew({ sessionId: "s" }), NotPermittedError);
  await writeFile(join(directory, "new"), rotated);
  await rename(join(directory, "new"), file);
  await td.rpc.renew({ sessionId: "s" });
  const none = new TenantdRpc({ address: sidecar.address, tokenFile: "/nonexistent" });
  t.after(() => none.close());
  await assert.rejects(none.renew({ sessionId: "s" }), SidecarUnavailableError);
});

test("over TLS the certificate is who one is", async (t) => {
  const sidecar = await guarded(t);
  const directory = await folder(t);
  const [caFile, certFile, keyFile] = [`${tls}ca.pem`, join(directory, "c.pem"), join(directory, "c.key")];
  const show = async (name) => {
    for (const [file, suffix] of [[certFile, "pem"], [keyFile, "key"]]) {
      await copyFile(`${tls}${name}.${suffix}`, join(directory, "new"));
      await rename(join(directory, "new"), file);
    }
  };
  await show("other");
  const td = connect({ address: sidecar.tls, caFile, certFile, keyFile });
  t.after(() => td.close());
  await assert.rejects(td.acquire({ tenant: "acme" }), NotPermittedError);
  // Rotated: the next call shows the new one.
  await show("agent");
  const attached = sidecar.events();
  await td.withSession({ tenant: "acme" }, (session) => session.publish("turn_started"));
  const seen = await attached;
  await until("its process was attached over TLS", () => seen.some(({ worker }) => worker !== ""));
  const ask = async (options) => {
    const rpc = new TenantdRpc({ address: sidecar.tls, ...options });
    try {
      return await rpc.acquire({ sessionId: "t", tenant: "acme" });
    } finally {
      rpc.close();
    }
  };
  assert.equal((await ask({ caFile, token: TOKEN })).session.tenant, "acme");
  await assert.rejects(ask({ caFile }), NotPermittedError);
  await assert.rejects(ask({ caFile: `${tls}foreign.pem`, token: TOKEN }), SidecarUnavailableError);
  await assert.rejects(ask({ caFile: "/nonexistent", token: TOKEN }), SidecarUnavailableError);
});

test("an open stream over TLS does not keep the process alive", async (t) => {
  const sidecar = await guarded(t);
  const code = `
    import { connect } from "@tenantd/client";
    const td = connect();
    const session = await td.acquire({ tenant: "acme" });
    await session.publish("x");
    console.log("done");
  `;
  const env = { ...process.env, TENANTD_ADDRESS: sidecar.tls, TENANTD_CA_FILE: `${tls}ca.pem`, TENANTD_TOKEN: TOKEN };
  const cwd = fileURLToPath(new URL("..", import.meta.url));
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], { cwd, env, stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (said += text));
  const overdue = setTimeout(() => child.kill("SIGKILL"), 20_000);
  const [exit, signal] = await once(child, "exit");
  clearTimeout(overdue);
  assert.deepEqual({ exit, signal, said }, { exit: 0, signal: null, said: "done\n" });
});

test("where an identity is shared a session is of the processes that have its key", async (t) => {
  const sidecar = await guarded(t);
  const before = process.env[LEASE_KEY];
  t.after(() => (before === undefined ? delete process.env[LEASE_KEY] : (process.env[LEASE_KEY] = before)));
  const rpc = new TenantdRpc({ address: sidecar.address, token: SHARED });
  t.after(() => rpc.close());
  const key = (process.env[LEASE_KEY] = "the-key-of-this-process-and-its-children");
  const s = { sessionId: "s" };
  assert.equal((await rpc.acquire({ ...s, tenant: "acme", activate: true })).created, true);
  // As a process has it that was given the token, and not the key.
  process.env[LEASE_KEY] = "of-another-process-that-has-the-token";
  await assert.rejects(rpc.release({ ...s, outcome: 1 }), SessionUnknownError);
  await assert.rejects(rpc.renew(s), SessionUnknownError);
  await assert.rejects(rpc.getConfig("s"), SessionUnknownError);
  await assert.rejects(rpc.reportFailure(s), SessionUnknownError);
  await assert.rejects(rpc.acquire({ ...s, tenant: "acme" }), SessionConflictError);
  const { refused } = await rpc.publishEvents([{ ...s, event: { name: "x" } }]);
  assert.equal(refused[0].reason, "SESSION_UNKNOWN");
  // A child goes on with it, as LiveKit's job process does.
  process.env[LEASE_KEY] = key;
  assert.equal((await rpc.acquire({ ...s, tenant: "acme" })).created, false);
  await rpc.getConfig("s");
  await rpc.release({ ...s, outcome: 1 });
  const td = connect({ address: sidecar.address, token: SHARED });
  t.after(() => td.close());
  await td.withSession({ tenant: "acme" }, async (session) => {
    await session.refresh();
    await session.publish("turn_started");
  });
});
