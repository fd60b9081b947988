// One agent process on the shipped Node client: does what stdin says, a JSON line a
// command, and answers each with a line. Its sessions die with it.
import { createInterface } from "node:readline";

import { SidecarUnavailableError, TenantdError, connect } from "../../../clients/node/dist/index.mjs";
import { Outcome } from "../../../clients/node/dist/proto.mjs";

const quiet = { info() {}, warn() {}, error() {}, debug() {} };
const open = () =>
  connect({ address: process.env.FAULT_ADDRESS, worker: process.env.FAULT_WORKER, logger: quiet });
let client = open();
let closing;
const sessions = new Map();
const key = (session) => session.providers.llm?.apiKey ?? "";

async function act(ask) {
  const { op, id } = ask;
  if (op === "acquire") {
    const session = await client.acquire({
      sessionId: id,
      jobMetadata: ask.job,
      roomMetadata: ask.room,
      tenant: ask.tenant,
      agent: ask.agent,
    });
    sessions.set(id, session);
    return { tenant: session.tenant, key: key(session) };
  }
  if (op === "reconnect") {
    closing = client;
    await client.close();
    client = open();
    sessions.clear();
    return {};
  }
  const session = sessions.get(id);
  if (!session) {
    // Straight to the wire, as a client that is confused.
    if (op === "end") await client.rpc.release({ sessionId: id, outcome: Outcome.SUCCESS });
    else if (op === "refresh") await client.rpc.getConfig(id);
    else await client.rpc.renew({ sessionId: id });
    return {};
  }
  if (op === "end") {
    sessions.delete(id);
    await session.end(ask.outcome);
  } else if (op === "fail") await session.fail({ slot: "llm", kind: "timeout", message: "it took too long" });
  else if (op === "publish") await session.publish("turn_started", { turn: 1 });
  else if (op === "renew") await client.rpc.renew({ sessionId: id });
  else if (op === "refresh") {
    await session.refresh();
    return { tenant: session.tenant, key: key(session) };
  }
  return {};
}

for await (const line of createInterface({ input: process.stdin })) {
  const ask = JSON.parse(line);
  const start = performance.now();
  const at = client;
  const tell = (said) =>
    process.stdout.write(`${JSON.stringify({ n: ask.n, ms: Math.round(performance.now() - start), ...said })}\n`);
  act(ask).then(
    (said) => tell({ ok: true, ...said }),
    (error) => {
      const typed = error instanceof TenantdError;
      // Closed under it, or being closed, by a command that came later.
      if (typed && (at !== client || at === closing)) return tell({ ok: false, class: error.constructor.name, reason: "CLOSED" });
      const reason = error instanceof SidecarUnavailableError ? "UNAVAILABLE" : typed ? error.reason || "?" : "?";
      tell({ ok: false, class: error.constructor.name, reason, text: String(error.message) });
    },
  );
}
