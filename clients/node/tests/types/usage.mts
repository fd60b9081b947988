// Compiles, or the build fails: what a user's TypeScript sees. An ES module's view.
import { type JobContext, ServerOptions, defineAgent, voice } from "@livekit/agents";
import * as openai from "@livekit/agents-plugin-openai";
import { connect, type ConfigChanged, type Revoked, Session, TenantAtCapError, TenantdError, Tenantd } from "@tenantd/client";
import { currentTenantId } from "@tenantd/client/context";
import { type Call, entry, requestFunc } from "@tenantd/client/livekit";
import { tagConsole, tenantMixin } from "@tenantd/client/logs";
import pino from "pino";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>) => {};

export async function blocks(td: Tenantd): Promise<void> {
  await using session = await td.acquire({ job: { id: "j", metadata: "{}" }, agent: "desk" });
  same<typeof session, Session>(true);
  same<typeof session.sessionId, string>(true);
  const result = await td.withSession({ tenant: "acme" }, async (s) => s.providers["llm"]!.apiKey.length);
  same<typeof result, number>(true);
  session.on("revoked", (notice) => same<typeof notice, Revoked>(true));
  td.on("configChanged", (notice) => same<typeof notice, ConfigChanged>(true));
  // @ts-expect-error There is no such event.
  session.on("revokd", () => {});
  // @ts-expect-error The sidecar books "lost" alone.
  await session.end("lost");
  // @ts-expect-error A tenant is a name.
  await td.acquire({ tenant: 5 });
  for await (const notice of td.notices()) {
    if (notice.type === "draining") same<typeof notice.deadlineMs, number>(true);
  }
}

export function refused(error: unknown): number | undefined {
  if (error instanceof TenantAtCapError) same<typeof error.limit, number | undefined>(true);
  return error instanceof TenantdError ? error.retryAfterMs : undefined;
}

same<ReturnType<typeof currentTenantId>, string | undefined>(true);
export const logger = pino({ mixin: tenantMixin });
export const td = connect({ logger, failOpen: false, slowThresholdMs: null });
tagConsole({ json: true })();

// LiveKit's own types fit, from an ES module and from CommonJS.
export default defineAgent({
  entry: entry(async (ctx: JobContext, call: Call) => {
    const session = new voice.AgentSession({ llm: new openai.LLM(call.providers["llm"]!.options) });
    call.watch(session);
    await session.start({ agent: new voice.Agent({ instructions: "Greet." }), room: ctx.room });
  }),
});
export const options = new ServerOptions({
  agent: "x",
  requestFunc: requestFunc(async (request) => void (await request.accept("name"))),
});
