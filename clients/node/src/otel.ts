import { createRequire } from "node:module";
import { join } from "node:path";

import { tags, type Binding } from "./context.js";

/** What is used of `@opentelemetry/api`. */
interface Api {
  trace: { getActiveSpan(): { setAttributes(attributes: Record<string, string>): unknown } | undefined };
  context: { active(): unknown; with<T>(context: unknown, fn: () => T): T };
  propagation: {
    getBaggage(context: unknown): Baggage | undefined;
    createBaggage(): Baggage;
    setBaggage(context: unknown, baggage: Baggage): unknown;
  };
}
interface Baggage {
  setEntry(name: string, entry: { value: string }): Baggage;
}

let found: Api | null | undefined;

/** The API that the program has, from its own folder or from here; every copy shares one state. */
function api(): Api | null {
  if (found === undefined) {
    found = null;
    for (const from of [join(process.cwd(), "_"), __filename]) {
      try {
        found = createRequire(from)("@opentelemetry/api") as Api;
        break;
      } catch {
        // Not installed there.
      }
    }
  }
  return found;
}

/** Tags the active span. Names are those of the sidecar's own telemetry. */
export function tagSpan(binding: Binding): void {
  api()?.trace.getActiveSpan()?.setAttributes(tags(binding));
}

/** Runs `fn` with the tags in the baggage, for all that is called from there. */
export function withBaggage<T>(binding: Binding, fn: () => T): T {
  const otel = api();
  if (!otel) return fn();
  const here = otel.context.active();
  let baggage = otel.propagation.getBaggage(here) ?? otel.propagation.createBaggage();
  for (const [name, value] of Object.entries(tags(binding))) baggage = baggage.setEntry(name, { value });
  return otel.context.with(otel.propagation.setBaggage(here, baggage), fn);
}
