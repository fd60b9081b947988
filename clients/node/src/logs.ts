/**
 * Tags log lines with tenant, session and agent.
 *
 * @packageDocumentation
 */
import { format } from "node:util";

import { tags } from "./context.js";

/** For pino: `pino({ mixin: tenantMixin })` puts `tenant`, `session_id` and `agent_name` on each line. */
export function tenantMixin(): Record<string, string> {
  return tags();
}

const METHODS = ["debug", "info", "log", "warn", "error"] as const;

/**
 * Tags what is written to a console: `tenant=acme session_id=... text`.
 *
 * @param options - `console` to tag (the global one when absent); `json`: one JSON object a line
 * @returns a function that ends it
 */
export function tagConsole(options: { console?: Console; json?: boolean } = {}): () => void {
  const target = options.console ?? console;
  const before = METHODS.map((method) => [method, target[method]] as const);
  for (const [method, write] of before) {
    target[method] = (...given: unknown[]) => {
      const known = tags();
      if (options.json) {
        const level = method === "log" ? "info" : method === "warn" ? "warning" : method;
        const message = format(...given);
        write.call(target, JSON.stringify({ time: new Date().toISOString(), level, message, ...known }));
        return;
      }
      const prefix = Object.entries(known).map(([name, value]) => `${name}=${value}`);
      // Formats first: a "%s" of the caller's must meet its own argument.
      write.apply(target, prefix.length > 0 ? [`${prefix.join(" ")} ${format(...given)}`] : given);
    };
  }
  return () => {
    for (const [method, write] of before) target[method] = write;
  };
}
