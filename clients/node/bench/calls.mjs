// CPU of this process for a call by the client, against the bare generated stub:
// `node bench/calls.mjs [ROUNDS]`. The sidecar is BENCH_TENANTD, else target/release/tenantd.
//
// Rounds in turn in one process, over one sidecar: acquire and release of a new session by
// grpc-js with the generated messages, by the client with calls of their own, and by the
// client over one stream. As many callers at a time as are named.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(import.meta.url);
const { Client, credentials } = require("@grpc/grpc-js");
const { create, fromBinary, toBinary } = require("@bufbuild/protobuf");
const { SessionService, Outcome } = require("../dist/proto.js");
const { TenantdRpc } = require("../dist/rpc.js");

const ROOT = new URL("../../..", import.meta.url).pathname;
const PAIRS = Number(process.env.BENCH_PAIRS ?? 400);
let ids = 0;

const acquiring = (sessionId) => ({
  sessionId, tenant: "acme", agentName: "support", worker: "b-1", activate: true,
});
const releasing = (sessionId) => ({ sessionId, outcome: Outcome.SUCCESS });

/** What a program with no client of ours does. */
function bare(address) {
  const client = new Client(address, credentials.createInsecure());
  const method = (of) => {
    const path = `/${of.parent.typeName}/${of.name}`;
    const encode = (message) => Buffer.from(toBinary(of.input, message));
    const decode = (bytes) => fromBinary(of.output, bytes);
    return (request) =>
      new Promise((resolve, reject) => {
        const deadline = Date.now() + 2_000;
        client.makeUnaryRequest(path, encode, decode, create(of.input, request), { deadline }, (error, answer) =>
          error ? reject(error) : resolve(answer),
        );
      });
  };
  const [acquire, release] = [SessionService.method.acquireSession, SessionService.method.releaseSession].map(method);
  return { close: () => client.close(), acquire, release };
}

async function measured({ acquire, release }, callers) {
  const each = Math.floor(PAIRS / callers);
  const before = process.cpuUsage();
  await Promise.all(
    Array.from({ length: callers }, async () => {
      for (let n = 0; n < each; n++) {
        const id = `n-${ids++}`;
        await acquire(acquiring(id));
        await release(releasing(id));
      }
    }),
  );
  const { user, system } = process.cpuUsage(before);
  return (user + system) / (each * callers * 2);
}

const median = (of) => of.toSorted((a, b) => a - b)[Math.floor(of.length / 2)];

async function compare(address, rounds) {
  const alone = new TenantdRpc({ address });
  const streamed = new TenantdRpc({ address, work: true });
  const calls = (rpc) => ({ acquire: (r) => rpc.acquire(r), release: (r) => rpc.release(r) });
  const stub = bare(address);
  const ways = { stub, "client, calls": calls(alone), "client, stream": calls(streamed) };
  const names = Object.keys(ways);
  for (const callers of [1, 16]) {
    const taken = Object.fromEntries(names.map((name) => [name, []]));
    for (let turn = 0; turn < rounds + 2; turn++) {
      for (let n = 0; n < names.length; n++) {
        const name = names[(n + turn) % names.length];
        const cpu = await measured(ways[name], callers);
        // The first are for warming.
        if (turn > 1) taken[name].push(cpu);
      }
    }
    for (const name of names) {
      const ratio = median(taken[name].map((cpu, n) => cpu / taken.stub[n]));
      const at = String(callers).padStart(2);
      const cpu = median(taken[name]).toFixed(0).padStart(6);
      console.log(`node   ${at} at a time  ${name.padEnd(16)} ${cpu} us of CPU a call, ${ratio.toFixed(2)} of the stub's`);
    }
  }
  for (const one of [stub, alone, streamed]) one.close();
}

const folder = mkdtempSync(join(tmpdir(), "tenantd-bench-"));
const [socket, config] = [join(folder, "s.sock"), join(folder, "bench.toml")];
writeFileSync(config, readFileSync(join(ROOT, "benches/load/bench.toml")), { mode: 0o600 });
const binary = process.env.BENCH_TENANTD ?? join(ROOT, "target/release/tenantd");
const env = { ...process.env, BENCH_KEY: `sk-${"0".repeat(48)}`, XDG_STATE_HOME: folder };
const sidecar = spawn(binary, ["serve", "--config", config, "--listen", `unix:${socket}`], { env, stdio: "ignore" });
try {
  for (let waited = 0; !existsSync(socket); waited += 20) {
    if (waited > 30_000 || sidecar.exitCode !== null) throw new Error(`${binary} does not serve`);
    await sleep(20);
  }
  await compare(`unix:${socket}`, Number(process.argv[2] ?? 9));
} finally {
  const over = sidecar.exitCode === null && once(sidecar, "exit");
  sidecar.kill();
  await over;
  rmSync(folder, { recursive: true, force: true });
}
