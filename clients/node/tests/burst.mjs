/**
 * One of several processes that acquire at the same instant. It reads
 * TENANTD_ADDRESS, TENANT, COUNT, START_AT (unix ms) and PREFIX, prints what it
 * got as one JSON line and releases nothing.
 */
import { setTimeout as sleep } from "node:timers/promises";

import { TenantdRpc, TenantdError } from "@tenantd/client";

const { TENANT = "default", COUNT = "1", START_AT = "0", PREFIX = `burst-${process.pid}` } = process.env;
const client = new TenantdRpc({ timeoutMs: 20_000 });
const result = { granted: 0, refused: 0, reasons: {}, sessions: [] };

async function acquire(sessionId) {
  try {
    await client.acquire({ sessionId, tenant: TENANT, activate: true });
    result.granted += 1;
    result.sessions.push(sessionId);
  } catch (error) {
    if (!(error instanceof TenantdError)) throw error;
    const reason = error.reason || error.name;
    result.refused += 1;
    result.reasons[reason] = (result.reasons[reason] ?? 0) + 1;
  }
}

// Any answer opens the connection, so that the burst does not queue behind the
// handshake.
await client.renew({ sessionId: `${PREFIX}-warm-up` }).catch(() => {});
await sleep(Math.max(0, Number(START_AT) - Date.now()));
await Promise.all(Array.from({ length: Number(COUNT) }, (_, i) => acquire(`${PREFIX}-${i}`)));
console.log(JSON.stringify(result));
client.close();
