import { createHmac, randomBytes } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";

import type { KeepAliveRequestSchema } from "./gen/tenantd/v1/session_service_pb.js";

/**
 * The variable that holds the key of lease tokens. Made at the first use where it is not
 * set, so that child processes have it.
 */
export const LEASE_KEY = "TENANTD_LEASE_KEY";

type Said = MessageInitShape<typeof KeepAliveRequestSchema>;

/** Tokens kept at hand: each is needed twice at least, and an HMAC is a tenth of a call. */
const REMEMBERED = 1_000;
const remembered = new Map<string, string>();
let keyOfRemembered: string | undefined;

/**
 * The lease token of a session: whose it is, where processes that need not trust each
 * other share an identity. Made out of its id and a key, so that nothing has to be kept,
 * and a process that has the key can go on with the session.
 */
export function leaseToken(sessionId: string): string {
  const key = (process.env[LEASE_KEY] ||= randomBytes(32).toString("hex"));
  if (key !== keyOfRemembered) {
    remembered.clear();
    keyOfRemembered = key;
  }
  let token = remembered.get(sessionId);
  if (token === undefined) {
    token = createHmac("sha256", key).update(sessionId).digest("base64url");
    if (remembered.size >= REMEMBERED) remembered.delete(remembered.keys().next().value!);
    remembered.set(sessionId, token);
  }
  return token;
}

/** What attaches sessions to the stream. @internal */
export function attach(sessionIds: string[]): Said {
  return { attachSessionIds: sessionIds, leaseTokens: tokens(sessionIds) };
}

/** What says that the event loop stood still. @internal */
export function blocked(ms: number, sessionId: string): Said {
  const leaseTokens = tokens(sessionId ? [sessionId] : []);
  return { loopBlocked: durationFromMs(Math.round(ms)), loopBlockedSessionId: sessionId, leaseTokens };
}

function tokens(sessionIds: string[]): Record<string, string> {
  return Object.fromEntries(sessionIds.map((id) => [id, leaseToken(id)]));
}
