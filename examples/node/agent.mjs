#!/usr/bin/env node
/**
 * A voice agent in miniature: it takes calls as LiveKit hands them over (job
 * and room metadata as text) and asks tenantd for a slot before each one.
 *
 *   node agent.mjs --calls 3 --tenant-metadata '{"tenant":"acme"}' --concurrent
 *
 * Exit codes: 0 it ran, refusals included; 1 the sidecar is not there; 2 bad usage.
 */
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import {
  Outcome,
  SessionEndedError,
  SidecarUnavailableError,
  TenantdRpc,
  TenantdError,
} from "@tenantd/client";

const USAGE = `usage: agent.mjs [--calls N] [--tenant-metadata JSON] [--room-metadata JSON] [--agent NAME]
                 [--hold SECONDS] [--fail-slot SLOT] [--session-prefix P] [--concurrent]`;

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        calls: { type: "string", default: "1" },
        "tenant-metadata": { type: "string", default: "" },
        "room-metadata": { type: "string", default: "" },
        agent: { type: "string", default: "" },
        hold: { type: "string", default: "1" },
        "fail-slot": { type: "string" },
        "session-prefix": { type: "string", default: `call-${process.pid}` },
        concurrent: { type: "boolean", default: false },
      },
    });
    const calls = Number(values.calls);
    const hold = Number(values.hold);
    if (!Number.isInteger(calls) || calls < 0) throw new Error("--calls must be a whole number");
    if (!(hold >= 0)) throw new Error("--hold must be a number of seconds");
    return { ...values, calls, hold };
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    process.exit(2);
  }
}

const options = readArguments();
const client = new TenantdRpc();
// New for every run: a restarted process must not inherit a dead one's calls.
const worker = `node-${hostname()}-${process.pid}-${randomUUID().slice(0, 8)}`;
/** How to hang up each call under way; the reason is the outcome to book. */
const calls = new Map();

/** Enough of a key to tell two apart, too little to use it. */
function redact(key) {
  return `${key.length >= 8 ? key.slice(0, 4) : ""}…(${key.length} chars)`;
}

function describe(config) {
  const llm = config?.providers.llm;
  if (!llm) return "llm=none";
  const credential = llm.credentials.api_key ?? Object.values(llm.credentials)[0];
  return `llm=${llm.provider}/${llm.model || "default"} key=${credential ? redact(credential.value) : "none"}`;
}

function refusal(error) {
  const retry = error.retryAfterMs === undefined ? "" : ` retry_after=${error.retryAfterMs / 1000}s`;
  return (
    `tenant=${error.tenant ?? "-"} refused ${error.reason || "-"} ` +
    `limit=${error.limit ?? "-"} current=${error.current ?? "-"} ${error.disposition ?? "-"}${retry}`
  );
}

async function call(sessionId) {
  let granted;
  try {
    granted = await client.acquire({
      sessionId,
      jobMetadata: options["tenant-metadata"],
      roomMetadata: options["room-metadata"],
      agentName: options.agent,
      worker,
      // This process runs the call itself; nobody else has to take it up.
      activate: true,
    });
  } catch (error) {
    if (!(error instanceof TenantdError) || error instanceof SidecarUnavailableError) throw error;
    console.log(`node call ${sessionId} ${refusal(error)}`);
    return;
  }
  const { tenant } = granted.session;
  console.log(`node call ${sessionId} tenant=${tenant} accepted ${describe(granted.config)}`);

  const hangUp = new AbortController();
  calls.set(sessionId, hangUp);
  const outcome = await talk(sessionId, hangUp.signal);
  calls.delete(sessionId);
  console.log(`node call ${sessionId} tenant=${tenant} ended ${outcome}`);
}

/** Runs the call and books its end; returns the outcome in words. */
async function talk(sessionId, signal) {
  try {
    await client.publishEvents([{ sessionId, event: { name: "turn_started", attributes: { turn: 1 } } }]);
    await sleep(options.hold * 1000, undefined, { signal }).catch(() => {});
    let outcome = signal.aborted ? signal.reason : Outcome.SUCCESS;
    const slot = options["fail-slot"];
    if (slot && outcome === Outcome.SUCCESS) {
      outcome = Outcome.FAILURE;
      await client.reportFailure({ sessionId, failure: { slot, kind: "timeout", message: `${slot} did not answer` } });
    }
    return Outcome[await client.release({ sessionId, outcome })].toLowerCase();
  } catch (error) {
    // Ended by an operator, say: there is nothing left to release.
    if (error instanceof SessionEndedError) return error.outcome ?? "unknown";
    throw error;
  }
}

/** Hangs up what an operator revoked; ends with the stream. */
async function listen(keepAlive) {
  for await (const { message } of keepAlive) {
    if (message.case === "revoked") calls.get(message.value.sessionId)?.abort(Outcome.CANCELLED);
  }
}

const keepAlive = client.keepAlive(worker);
// Without the stream the calls still run; they only lose their sign of life.
const listening = listen(keepAlive).catch((error) => {
  if (!(error instanceof SidecarUnavailableError)) console.error(`keep-alive: ${error.message}`);
});
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => calls.forEach((hangUp) => hangUp.abort(Outcome.CANCELLED)));
}

try {
  const ids = Array.from({ length: options.calls }, (_, i) => `${options["session-prefix"]}-${i}`);
  if (options.concurrent) {
    const results = await Promise.allSettled(ids.map(call));
    const failed = results.find(({ status }) => status === "rejected");
    if (failed) throw failed.reason;
  } else {
    for (const id of ids) await call(id);
  }
} catch (error) {
  if (!(error instanceof TenantdError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
} finally {
  client.close();
  await listening;
}
