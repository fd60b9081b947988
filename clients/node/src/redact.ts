import { inspect } from "node:util";

import type { SessionConfig } from "./gen/tenantd/v1/provider_pb.js";

/** Not enumerable: the message still encodes and compares as before. */
const HIDDEN = {
  [inspect.custom]: { value: () => "[redacted]" },
  toJSON: { value: () => "[redacted]" },
};

/**
 * Keeps the credentials of a config out of `console.log`, `util.inspect` and
 * `JSON.stringify`. The values themselves stay readable by the agent's code.
 */
export function hideCredentials(config: SessionConfig | undefined): void {
  for (const provider of Object.values(config?.providers ?? {})) {
    for (const credential of Object.values(provider.credentials)) {
      Object.defineProperties(credential, HIDDEN);
    }
  }
}
